"""What simulated workers write and say: the candidates that were recorded, drawn by a call's seed.

A token of a simulated model is a number that says whose it is: which sample of its question it
stands in, and where. So any prompt can be gone on with, as by a real model: in the middle of a step
its sample goes on; after a step, where only the next one is asked for, that of a drawn sample
follows, so that the branches of a tree differ.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from services.simulation.model import Question, Sample

_ASKED = re.compile(r"\[(\d+)\.(\d+)\]")
_STEP = re.compile(r"<(\d+)\.(\d+)>")
_LENGTH = 1 << 14
"""No sample has as many tokens."""
_FIRST = _LENGTH * _LENGTH
"""The first token of the first sample: what prompts are made of comes before, or is negative."""
_FILLER = tuple(range(1, 1 << 16))
_LETTERS_A_TOKEN = 4
_ROLES_TOKENS = 4


def asking(question: int, serial: int) -> str:
    """What a request says that asks a recorded question; `serial` makes it one of its own."""
    return f"[{question}.{serial}]"


@dataclass(frozen=True, slots=True)
class Written:
    """What a call makes, and whether that ends the candidate, a step of it, or neither."""

    token_ids: tuple[int, ...]
    text: str
    finish: Literal["stop", "step", "length"]


class Writer:
    """Writes what was recorded of questions."""

    def __init__(self, questions: Sequence[Question], delimiter: str) -> None:
        self._questions = [_Recorded.of(one, delimiter) for one in questions]
        self._delimiter = delimiter

    def prompt(self, messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
        """The tokens of a conversation: the first says which question it asks."""
        said = "\n".join(f"{role}: {content}" for role, content in messages)
        asked = _ASKED.search(said)
        if asked is None:
            number = random.Random(said).randrange(1 << 40)
            length = len(said) // _LETTERS_A_TOKEN + _ROLES_TOKENS * len(messages)
        else:
            question, serial = int(asked[1]) % len(self._questions), int(asked[2])
            number = serial * len(self._questions) + question
            beside = len(said) - len(f"user: {asked[0]}")
            length = self._questions[question].prompt_tokens + beside // _LETTERS_A_TOKEN
        return (-1 - number, *_FILLER[: length - 1])

    def encode(self, text: str) -> tuple[int, ...]:
        """A piece of text in as many tokens as it is likely to take."""
        return _FILLER[: len(text) // _LETTERS_A_TOKEN + 1]

    def write(
        self, prompt: Sequence[int], seed: int | None, max_tokens: int, *, step: bool
    ) -> Written:
        """Go on from a prompt, to the end of a step or of the candidate, or as far as allowed."""
        question = self._of(prompt[0])
        sample, start = question.place(prompt[-1])
        ends = question.samples[sample].ends
        if start in (0, ends[-1]):
            # From the beginning; or what had come to its end is opened again.
            sample, start = question.drawn(random.Random(seed), sample, 0)
        elif step and start in ends:
            sample, start = question.drawn(random.Random(seed), sample, start)
        chosen = question.samples[sample]
        end = chosen.length
        if step:
            end = next((place for place in chosen.ends if place > start), end)
        made = min(end - start, max_tokens)
        first = sample * _LENGTH + start
        text = "".join(
            text
            for place, text in zip(chosen.ends, chosen.texts, strict=True)
            if start < place <= start + made
        )
        finish: Literal["stop", "step", "length"] = "length"
        if start + made == end:
            finish = "stop" if end == chosen.length else "step"
        return Written(tuple(range(_FIRST + first, _FIRST + first + made)), text, finish)

    def scores(self, prompt: Sequence[int], steps: Sequence[str]) -> tuple[float, ...]:
        """The recorded score of each step."""
        question = self._of(prompt[0])
        return tuple(question.score(step) for step in steps)

    def tokens(self, prompt: Sequence[int], steps: Sequence[str]) -> tuple[int, ...]:
        """The tokens of steps that were written."""
        question = self._of(prompt[0])
        return tuple(token for step in steps for token in question.tokens(step))

    def _of(self, marker: int) -> _Recorded:
        return self._questions[(-1 - marker) % len(self._questions)]


@dataclass(frozen=True, slots=True)
class _Line:
    """A sample, with the places in it where its steps end, and what each says."""

    ends: tuple[int, ...]
    texts: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def length(self) -> int:
        return self.ends[-1]

    @classmethod
    def of(cls, number: int, sample: Sample, delimiter: str) -> _Line:
        last = len(sample.steps) - 1
        texts = [f"<{number}.{step}>{delimiter}" for step in range(last)]
        answer = "" if sample.answer is None else f" #### {sample.answer}"
        # Without an answer it ends in no number that could be taken for one.
        texts.append(f"<{number}.{last}>{answer or ' ?'}")
        return cls(tuple(accumulate(sample.steps)), tuple(texts), sample.scores)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A question, ready to be answered."""

    prompt_tokens: int
    samples: tuple[_Line, ...]

    @classmethod
    def of(cls, question: Question, delimiter: str) -> _Recorded:
        lines = (_Line.of(n, one, delimiter) for n, one in enumerate(question.samples))
        return cls(question.prompt_tokens, tuple(lines))

    def place(self, token: int) -> tuple[int, int]:
        """The sample that a token is of, and where it goes on after it; or else the beginning."""
        at = token - _FIRST
        if not 0 <= at < len(self.samples) * _LENGTH:
            return 0, 0
        sample, place = divmod(at, _LENGTH)
        return sample, min(place + 1, self.samples[sample].length)

    def drawn(self, dice: random.Random, sample: int, start: int) -> tuple[int, int]:
        """A drawn sample, and where it goes on after as many steps."""
        if start == 0:
            return dice.randrange(len(self.samples)), 0
        steps = self.samples[sample].ends.index(start)
        longer = [n for n, one in enumerate(self.samples) if len(one.ends) > steps + 1]
        if not longer:
            return sample, start
        chosen = dice.choice(longer)
        return chosen, self.samples[chosen].ends[steps]

    def score(self, step: str) -> float:
        found = self._found(step)
        if found is None:
            return 0.5
        sample, number = found
        scores = self.samples[sample].scores
        return scores[number] if number < len(scores) else 0.5

    def tokens(self, step: str) -> Sequence[int]:
        """The tokens of a step; letters that nobody has written count as so many to a token."""
        found = self._found(step)
        if found is None:
            return _FILLER[: len(step) // _LETTERS_A_TOKEN + 1]
        sample, number = found
        ends = self.samples[sample].ends
        first = _FIRST + sample * _LENGTH
        return range(first + (ends[number - 1] if number else 0), first + ends[number])

    def _found(self, step: str) -> tuple[int, int] | None:
        """The sample and the number of a step by what it says, if it was written here."""
        named = _STEP.search(step)
        if named is None:
            return None
        sample, number = int(named[1]), int(named[2])
        if sample >= len(self.samples) or number >= len(self.samples[sample].ends):
            return None
        return sample, number
