"""The words put to a model for planning, refining and judging.

Owns every instruction that longthink itself writes. Solving has none: the user's own
message is the question. An instruction is always appended to the last message of the
conversation, after the question, so that all calls about one question share its prefix (and
its KV cache), and so that system prompts and earlier turns stay as they were.

The reference reasoner is trained on exactly these texts; a change here wants it trained anew.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from planner import domain

Message = dict[str, str]

PLAN = """\
Split this into smaller questions that can each be answered alone. Reply with JSON only: \
{"steps": [{"id": "a", "question": "...", "needs": []}]}. To use the answer of an earlier \
step, write $ and its id in the question and list its id in needs. The last step must answer \
the whole question."""

CONTRACT = """\
Write this question anew as a shorter one with the same answer, in which what is known is given. \
Reply with the new question only."""

REFINE = "These attempts may be wrong. Check every step, then write the right solution in full."

JUDGE = 'Which attempt is right? Reply with its number, as "Best: 1".'

WAIT = "Wait"
"""Put after a finished answer to make a model think again (s1, 2501.19393)."""

_VERDICT = re.compile(r"best\W{0,8}(?:attempt\W{0,4})?(\d{1,6})", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])\d{1,6}(?![\w.]\d)")


def plan_messages(conversation: Sequence[Mapping[str, str]]) -> list[Message]:
    """Ask for the conversation's question as a JSON plan of sub-questions."""
    return _asking(conversation, PLAN)


def contract_messages(conversation: Sequence[Mapping[str, str]]) -> list[Message]:
    """Ask for the conversation's question with what is known put into it (Atom of Thoughts)."""
    return _asking(conversation, CONTRACT)


def refine_messages(
    conversation: Sequence[Mapping[str, str]], attempts: Sequence[str]
) -> list[Message]:
    """Ask for a better solution than the attempts shown (one: correction; several: RSA)."""
    return _asking(conversation, f"{_listed(attempts)}\n\n{REFINE}")


def judge_messages(
    conversation: Sequence[Mapping[str, str]], attempts: Sequence[str]
) -> list[Message]:
    """Ask which one of the attempts is right (GenSelect); `parse_judgement` reads the reply."""
    return _asking(conversation, f"{_listed(attempts)}\n\n{JUDGE}")


def conversation(messages: Iterable[domain.Message]) -> list[Message]:
    """A query's messages in the form that the instructions are put to."""
    return [{"role": message.role, "content": message.content} for message in messages]


def asked(messages: Iterable[Message]) -> tuple[domain.Message, ...]:
    """Messages in the form that a task asks them in."""
    return tuple(domain.Message(message["role"], message["content"]) for message in messages)


def parse_judgement(text: str, count: int) -> int | None:
    """Index from 0 of the attempt chosen among `count`, or None where the reply names none.

    The last "Best: N" counts; a reply without one counts if it holds exactly one number.
    """
    chosen = _VERDICT.findall(text) or _NUMBER.findall(text)
    if not chosen or (len(set(chosen)) > 1 and not _VERDICT.search(text)):
        return None
    index = int(chosen[-1]) - 1
    return index if 0 <= index < count else None


def _asking(conversation: Sequence[Mapping[str, str]], instruction: str) -> list[Message]:
    """The conversation with the instruction added to its last message.

    Raises ValueError where there is no message to ask about.
    """
    if not conversation:
        raise ValueError("A conversation needs at least one message to ask about.")
    *earlier, last = conversation
    asked = {**last, "content": f"{last['content']}\n\n{instruction}"}
    return [*(dict(message) for message in earlier), asked]


def _listed(attempts: Sequence[str]) -> str:
    """The attempts, numbered from 1.  Raises ValueError where there is none."""
    if not attempts:
        raise ValueError("At least one attempt is needed.")
    return "\n\n".join(
        f"Attempt {number}:\n{attempt.strip()}" for number, attempt in enumerate(attempts, 1)
    )
