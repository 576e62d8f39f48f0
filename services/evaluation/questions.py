"""Draws the questions of an evaluation: synthetic ones, or those of files.

The seed alone decides which; a seed never used before is a test never seen. Files are JSONL, a JSON
array, CSV or Parquet, of a user's own {"question", "answer"} or as these are published:

- GSM8K: `question`, and `answer`, a solution that ends in "#### 42";
- MATH-500: `problem`, and `answer` beside `solution`;
- AIME: `problem` or `Problem`, and `answer` or `Answer`.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from planner.errors import InvalidOption
from services.evaluation.tables import parquet_rows
from workers.reference.synthetic import Kind, Split, queries


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answer, as written. `id` is unique among those drawn.

    `split` names the synthetic split it is of, if it is of one.
    """

    id: str
    text: str
    answer: str
    split: str | None = None


def mixed(names: str, limit: int, seed: int) -> tuple[Question, ...]:
    """The first `limit` questions of each of several splits, with commas between them, in turn.

    Raises InvalidOption for a name that there is none of.
    """
    splits = dict.fromkeys(name.strip() for name in names.split(","))
    drawn = [synthetic(name, limit, seed) for name in splits]
    # In turn, so that a run that is cut short has as many of each.
    return tuple(question for together in zip(*drawn, strict=True) for question in together)


def by_difficulty(splits: Iterable[str | None]) -> list[str]:
    """The splits that there are among these, each once, the easiest kind first."""
    kinds = get_args(Kind)
    distinct = {split for split in splits if split is not None}
    return sorted(distinct, key=lambda split: (kinds.index(split.rpartition("/")[2]), split))


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
    called = kind if split == "test" else f"{split}/{kind}"
    return tuple(Question(query.id, query.question, query.answer, called) for query in drawn)


def from_files(paths: Sequence[Path], limit: int | None, seed: int) -> tuple[Question, ...]:
    """The questions of these files, one after another, or `limit` of them drawn by the seed.

    Raises InvalidOption that names the file and the line.
    """
    found = [question for path in paths for question in _questions(path, several=len(paths) > 1)]
    if limit is None or limit >= len(found):
        return tuple(found)
    return tuple(random.Random(seed).sample(found, limit))


def fingerprint(questions: tuple[Question, ...]) -> str:
    """The same for the same questions in the same order, and for no others."""
    text = json.dumps([[one.id, one.text, one.answer] for one in questions])
    return sha256(text.encode()).hexdigest()[:16]


def _questions(path: Path, *, several: bool) -> list[Question]:
    """All questions of a file. Their ids name it where there are several files."""
    name = f"{path.name} " if several else ""
    rows = parquet_rows(path) if path.suffix == ".parquet" else _text_rows(path)
    found = [_question(f"{path}, line {place}", f"{name}line-{place}", row) for place, row in rows]
    if not found:
        raise InvalidOption(f"{path}: has no questions in it.")
    return found


def _text_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """What each line, or element of an array, or row of a table says, with its number."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidOption(f"{path}: can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"{path}: isn't UTF-8: {error}.") from error
    if path.suffix.lower() == ".csv":
        yield from _csv_rows(path, text)
        return
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), 1)
        except (ValueError, RecursionError) as error:
            raise InvalidOption(f"{path}: isn't JSON: {error}.") from error
        return
    lines = text.split("\n")
    for place, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidOption(f"{path}, line {place}: isn't JSON: {error}.") from error


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(1 << 30)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), restkey=""))
    except csv.Error as error:
        raise InvalidOption(f"{path}: isn't CSV: {error}.") from error
    for place, row in enumerate(rows, 1):
        if "" in row:
            raise InvalidOption(f"{path}, row {place}: has more cells than the table's head.")
        yield place, row


def _question(where: str, name: str, row: Any) -> Question:
    """The question of one line, in whichever of the formats it is."""
    said = {key.lower(): value for key, value in row.items()} if isinstance(row, dict) else {}
    text = said.get("question", said.get("problem"))
    answer = said.get("answer")
    is_one = isinstance(answer, str | int | float) and not isinstance(answer, bool)
    if not isinstance(text, str) or not is_one:
        raise InvalidOption(
            f'{where}: must be an object with "question" or "problem", a text, and "answer", a '
            "text or a number."
        )
    # GSM8K's answers are whole solutions, and the answer itself stands after the hashes.
    gold = str(answer).rpartition("####")[2].strip()
    if not gold:
        raise InvalidOption(f'{where}: its "answer" is empty, so nothing could be right.')
    return Question(name, text, gold)
