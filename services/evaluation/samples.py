"""Reads recorded samples: JSONL, a query a line, with the candidates that were sampled for it.

    {"id", "question", "answer", "samples": [{"text", "answer"?, "tokens"?, "score"?, "logprobs"?}]}

`tokens` is the length of a sample, `score` its grade from 0 to 1, `logprobs` the log-probability of
each of its tokens: numbers, or objects with a "logprob" as OpenAI's API has them. Where each of
these has its "top_logprobs", too, they say how sure the model was. What is optional may be null. A
file is read as a whole or not at all: no line is ever left out.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum, isfinite
from pathlib import Path
from typing import Any

from planner.answers import extract
from planner.confidence import TOP, token_confidence
from planner.errors import InvalidOption
from planner.replay import Sample

_MARKED = re.compile(r"####|\\boxed|\banswer(?:\s+is\b|\s*[:=])", re.IGNORECASE)
_MOST_FAULTS = 20
"""So many lines that are wrong are told one by one."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A query, its right answer as written, and its samples in the order of the file."""

    id: str
    question: str
    answer: str
    samples: tuple[Sample, ...]

    def shuffled(self, seed: int) -> Recorded:
        """The samples in an order that the seed and the query's id decide."""
        order = random.Random(f"{seed}/{self.id}").sample(self.samples, len(self.samples))
        return Recorded(self.id, self.question, self.answer, tuple(order))


def read_samples(path: Path) -> tuple[Recorded, ...]:
    """The queries of a file, in its order; blank lines are none.

    Raises InvalidOption that says of every line that is wrong (the first 20) what is.
    """
    found, faults = [], []
    try:
        with path.open("rb") as file:
            for place, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    found.append(_query(line))
                except _Amiss as amiss:
                    faults.append(f"{path}, line {place}: {amiss}.")
    except OSError as error:
        raise InvalidOption(f"{path}: can't be read: {error.strerror}.") from error
    if faults:
        more = len(faults) - _MOST_FAULTS
        told = [*faults[:_MOST_FAULTS], *([f"… and {more} more lines."] if more > 0 else [])]
        raise InvalidOption("\n".join(told))
    if not found:
        raise InvalidOption(f"{path}: has no queries in it.")
    return tuple(found)


class _Amiss(Exception):
    """What is wrong with a line."""


def _query(line: bytes) -> Recorded:
    try:
        said = json.loads(line)
    except UnicodeDecodeError as error:
        raise _Amiss(f"isn't UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _Amiss(f"isn't JSON: {error}") from error
    if not isinstance(said, dict):
        raise _Amiss('must be an object with "id", "question", "answer" and "samples"')
    samples = said.get("samples")
    if not isinstance(samples, list) or not samples:
        raise _Amiss('"samples" must be a list with at least one sample in it')
    question = said.get("question")
    if not isinstance(question, str):
        raise _Amiss('"question" must be a text')
    return Recorded(
        _written(said, "id", '"id"'),
        question,
        _bare(_written(said, "answer", '"answer"')),
        tuple(_sample(one, f'"samples"[{index}]') for index, one in enumerate(samples)),
    )


def _sample(said: Any, where: str) -> Sample:
    if not isinstance(said, dict) or not isinstance(said.get("text"), str):
        raise _Amiss(f'{where} must be an object with "text", a text')
    logprobs = _logprobs(said.get("logprobs"), f"{where}.logprobs")
    tokens = said.get("tokens")
    if tokens is None and logprobs is not None:
        tokens = len(logprobs)
    if tokens is not None and (not _is_number(tokens, int) or tokens < 0):
        raise _Amiss(f"{where}.tokens must be a whole number, 0 or more")
    score = said.get("score")
    if score is not None and not (_is_number(score) and 0 <= score <= 1):
        raise _Amiss(f"{where}.score must be a number from 0 to 1")
    answer = (
        None if said.get("answer") is None else _bare(_written(said, "answer", f"{where}.answer"))
    )
    return Sample(
        text=said["text"],
        answer=answer,
        tokens=tokens,
        score=score,
        logprob=None if logprobs is None else fsum(logprobs),
        token_confidences=_confidences(said.get("logprobs"), f"{where}.logprobs"),
    )


def _written(said: Mapping[str, Any], key: str, where: str) -> str:
    """A text, or a number as a text."""
    value = said.get(key)
    if isinstance(value, str) or _is_number(value):
        return str(value)
    raise _Amiss(f"{where} must be a text or a number")


def _bare(answer: str) -> str:
    """What an answer says that was recorded with its mark: `#### 42`, or a whole solution."""
    return (extract(answer) if _MARKED.search(answer) else None) or answer


def _logprobs(said: Any, where: str) -> list[float] | None:
    if said is None:
        return None
    tokens = said.get("content") if isinstance(said, dict) else said
    if not isinstance(tokens, list):
        raise _Amiss(f"{where} must be a list, with one entry a token")
    return _numbers(tokens, where)


def _numbers(said: list[Any], where: str) -> list[float]:
    found: list[Any] = [one.get("logprob") if isinstance(one, dict) else one for one in said]
    if not all(_is_number(one) for one in found):
        raise _Amiss(f'{where} must hold numbers, or objects with a number "logprob"')
    return found


def _confidences(logprobs: Any, where: str) -> tuple[float, ...]:
    """How sure the model was of each token; nothing where a token came without alternatives."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else logprobs
    tops: list[Any] = [
        one.get("top_logprobs") if isinstance(one, dict) else None for one in tokens or ()
    ]
    if not all(tops):
        return ()
    if not all(isinstance(top, list) for top in tops):
        raise _Amiss(f'{where}: "top_logprobs" must be a list')
    found = (_numbers(top, f"{where}.top_logprobs") for top in tops)
    return tuple(token_confidence(sorted(top)[-TOP:]) for top in found)


def _is_number(value: Any, kind: type = float) -> bool:
    """Whether it is a number: not true or false, and neither infinite nor NaN."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (
        kind is float and isinstance(value, float) and isfinite(value)
    )
