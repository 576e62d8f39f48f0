"""Draws the questions of an evaluation: synthetic ones, or those of a JSONL file.

The seed alone decides which; a seed never used before is a test never seen.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import get_args

from planner.errors import InvalidOption
from workers.reference.synthetic import Kind, Split, queries


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answer, as written. `id` is unique among those drawn."""

    id: str
    text: str
    answer: str


def synthetic(name: str, limit: int, seed: int) -> tuple[Question, ...]:
    """The first `limit` questions of a split: `hard` for the test split, or `dev/hard`.

    Raises InvalidOption for a name that there is none of.
    """
    split, slash, kind = name.rpartition("/")
    split = split if slash else "test"
    if split not in get_args(Split) or kind not in get_args(Kind):
        raise InvalidOption(
            f"--split must be one of {', '.join(get_args(Kind))}, as it is or after one of "
            f"{', '.join(f'{one}/' for one in get_args(Split))} not {name!r}."
        )
    drawn = queries(split, kind, limit, seed)  # type: ignore[arg-type]
    return tuple(Question(query.id, query.question, query.answer) for query in drawn)


def from_file(path: Path, limit: int | None, seed: int) -> tuple[Question, ...]:
    """The questions of a JSONL file of {"question", "answer"}, `limit` of them drawn by the seed.

    Raises InvalidOption that names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InvalidOption(f"{path}: can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"{path}: isn't UTF-8: {error}.") from error
    found = [_read(path, place, line) for place, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InvalidOption(f"{path}: has no questions in it.")
    if limit is None or limit >= len(found):
        return tuple(found)
    return tuple(random.Random(seed).sample(found, limit))


def fingerprint(questions: tuple[Question, ...]) -> str:
    """The same for the same questions in the same order, and for no others."""
    text = json.dumps([[one.id, one.text, one.answer] for one in questions])
    return sha256(text.encode()).hexdigest()[:16]


def _read(path: Path, place: int, line: str) -> Question:
    where = f"{path}, line {place}"
    try:
        said = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidOption(f"{where}: isn't JSON: {error}.") from error
    question = said.get("question") if isinstance(said, dict) else None
    answer = said.get("answer") if isinstance(said, dict) else None
    if not isinstance(question, str) or not isinstance(answer, str | int | float):
        raise InvalidOption(
            f'{where}: must be an object with "question", a text, and "answer", a text or a number.'
        )
    return Question(f"line-{place}", question, str(answer))
