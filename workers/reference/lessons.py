"""What the reasoner is taught: conversations, each with the reply it should give.

Most lessons are plain solving. The rest are what the planner's prompts ask for, in the same
words: plans, corrections of wrong attempts, judgements, and going on after "Wait". Only the
reply is learnt, never the prompt; of a reply that goes wrong first only what comes after.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from planner import prompts
from workers.reference import synthetic
from workers.reference.slips import mixed_attempts, wrong_attempt
from workers.reference.synthetic import Kind, Query

SYSTEM = "You are a helpful assistant."
_SHARES = {
    "solve": 0.69,
    "part": 0.08,
    "plan": 0.045,
    "refine": 0.07,
    "judge": 0.035,
    "wait": 0.025,
    "compound": 0.04,
    "talk": 0.015,
}
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation and its reply; `given` starts the reply and isn't learnt."""

    messages: list[prompts.Message]
    reply: str
    given: str = ""


def lessons(seed: int) -> Iterator[Lesson]:
    """Lessons of the train split without end, in an order that depends on the seed alone."""
    rng = random.Random(f"lessons-{seed}")
    kinds: dict[Kind, float] = {"practice": 0.5, "hard": 0.4, "easy": 0.1}
    drawn = {kind: _endless(kind, seed) for kind in (*kinds, "compound")}
    while True:
        task = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        if task in ("part", "plan", "compound"):
            yield _compound_lesson(task, next(drawn["compound"]), rng)
            continue
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        query = next(drawn[kind])
        if task == "talk":
            yield _talk_lesson(next(drawn["easy"]), query)
        else:
            yield _lesson(task, query, rng)


def plan_text(query: Query) -> str:
    """The plan as the planner's prompt wants it: one line of JSON."""
    steps = [{"id": s.id, "question": s.question, "needs": list(s.needs)} for s in query.plan]
    return json.dumps({"steps": steps})


def ask(question: str) -> list[prompts.Message]:
    """A conversation of one message."""
    return [{"role": "user", "content": question}]


def _endless(kind: Kind, seed: int) -> Iterator[Query]:
    chunk = 0
    while True:
        yield from synthetic.queries("train", kind, _CHUNK, seed * 1_000_003 + chunk)
        chunk += 1


def _lesson(task: str, query: Query, rng: random.Random) -> Lesson:
    asked = ask(query.question)
    match task:
        case "refine":
            count = rng.choice((1, 1, 2, 3, 4))
            right = sum(rng.random() < 0.35 for _ in range(count))
            shown = mixed_attempts(query, rng, count, right)
            return Lesson(prompts.refine_messages(asked, shown), query.solution)
        case "judge":
            shown = mixed_attempts(query, rng, rng.randint(2, 5), 1)
            best = shown.index(query.solution) + 1
            return Lesson(prompts.judge_messages(asked, shown), f"Best: {best}")
        case "wait":
            wrong = rng.random() < 0.7
            first = "\n".join(wrong_attempt(query, rng)) if wrong else query.solution
            return Lesson(asked, query.solution, f"{first}\n{prompts.WAIT}\n")
        case _:
            pass
    if rng.random() < 0.04:
        asked = [{"role": "system", "content": SYSTEM}, *asked]
    return Lesson(asked, query.solution)


def _compound_lesson(task: str, query: Query, rng: random.Random) -> Lesson:
    match task:
        case "plan":
            return Lesson(prompts.plan_messages(ask(query.question)), plan_text(query))
        case "part":
            part = rng.choice(synthetic.parts(query))
            return Lesson(ask(part.question), part.solution)
        case _:
            return Lesson(ask(query.question), query.solution)


def _talk_lesson(earlier: Query, query: Query) -> Lesson:
    said = [*ask(earlier.question), {"role": "assistant", "content": earlier.solution}]
    return Lesson([*said, *ask(query.question)], query.solution)
