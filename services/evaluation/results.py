"""The results on disk: `run.json` says what is measured, `results.jsonl` has a line a reply.

`settled.json` has what was found out on the way and all later requests depend on.

What always holds: a line is written whole or, after a crash, forgotten; a reply that was recorded
is never asked for again; an error is kept, and asked for again by the next run; a folder holds the
results of one configuration only, and one process writes it at a time.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from planner.errors import LongthinkError

_ELSEWHERE = "Mend it, or name another folder with --out."


class ResultsError(LongthinkError):
    """A folder of results that can't be used."""


@dataclass(frozen=True, slots=True)
class Record:
    """How one question went with one variant. With an `error` there was no reply.

    `candidates` is None where nothing named them, and `split` where the questions are of none.
    `right` compares the reply's answer with the `gold` one, `passed` says whether any candidate
    that voted had it, `correct` how many of those `finished` had it; `seconds` is the time from
    request to reply as the client saw it. `confidence` is as it was replied, and
    `raw_confidence` what it was before it was calibrated, if it was `calibrated`; `used` is what
    the service took in the end, as strategy/selector. What older records don't say is None.
    """

    variant: str
    strategy: str
    candidates: int | None
    question: str
    gold: str
    answer: str | None = None
    right: bool = False
    passed: bool = False
    correct: int = 0
    finished: int = 0
    confidence: float = 0.0
    stopped: str | None = None
    completion_tokens: int = 0
    reward_tokens: int = 0
    sampled: int = 0
    seconds: float = 0.0
    trace_id: str | None = None
    error: str | None = None
    split: str | None = None
    used: str | None = None
    raw_confidence: float | None = None
    calibrated: bool = False

    @property
    def raw(self) -> float:
        """The confidence before it was calibrated."""
        return self.confidence if self.raw_confidence is None else self.raw_confidence

    @property
    def place(self) -> tuple[str, str]:
        """What this is the record of."""
        return self.variant, self.question


class Results:
    """The records of one run, and the file they are kept in."""

    def __init__(self, path: Path, records: dict[tuple[str, str], Record], file: TextIO) -> None:
        self.path = path
        self._settled = path.with_name("settled.json")
        self._records = records
        self._file = file

    def has(self, variant: str, question: str) -> bool:
        """Whether there is a reply on record; an error isn't one."""
        record = self._records.get((variant, question))
        return record is not None and record.error is None

    def add(self, record: Record) -> None:
        """Write one record down."""
        self._file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
        self._file.flush()
        self._records[record.place] = record

    def of(self, variant: str) -> tuple[Record, ...]:
        """The latest record of each question, in the order they were first asked."""
        return tuple(one for one in self._records.values() if one.variant == variant)

    @property
    def variants(self) -> tuple[str, ...]:
        """The keys of all that there are records of, in the order of their first ones."""
        return tuple(dict.fromkeys(record.variant for record in self._records.values()))

    def settled(self, name: str, find: Callable[[], float]) -> float:
        """A figure that is found once, and stays what it is however often the run goes on.

        Raises ResultsError where the file it stands in can't be read.
        """
        known = _load(self._settled) if self._settled.exists() else {}
        if name not in known:
            known[name] = find()
            _save(self._settled, known)
        if not isinstance(known[name], int | float):
            raise ResultsError(f"{self._settled}: {name} isn't a number.")
        return float(known[name])

    @property
    def errors(self) -> tuple[Record, ...]:
        """What has no reply."""
        return tuple(one for one in self._records.values() if one.error is not None)


@contextmanager
def opened(folder: Path, configuration: Mapping[str, Any]) -> Iterator[Results]:
    """The results in `folder`, which is made where there is none, locked while they are open.

    Raises ResultsError when the folder holds results of another configuration, can't be read or
    written, or is written by another process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _claim(folder, configuration)
            path = folder / "results.jsonl"
            records = _read(path)
            with path.open("a", encoding="utf-8") as file:
                yield Results(path, records, file)
    except OSError as error:
        raise ResultsError(f"{folder}: can't keep results there: {error}.") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResultsError(f"{folder}: another evaluation is writing there.") from error
        yield


def _claim(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Write down what is measured here, or make sure that it is the same."""
    path = folder / "run.json"
    wanted = json.loads(json.dumps(configuration))
    if path.exists():
        there = _load(path)
        differing = [key for key in wanted | there if wanted.get(key) != there.get(key)]
        if differing:
            told = "; ".join(
                f"{key} was {json.dumps(there.get(key))}, now {json.dumps(wanted.get(key))}"
                for key in differing
            )
            raise ResultsError(
                f"{folder}: holds the results of another evaluation ({told}). Repeat that command "
                "to go on with it, or name another folder with --out."
            )
    elif (folder / "results.jsonl").exists():
        raise ResultsError(f"{folder}: has results but no run.json that says what they measure.")
    else:
        _save(path, wanted)


def _load(path: Path) -> dict[str, Any]:
    """The object that a file has in it."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: isn't JSON: {error}. {_ELSEWHERE}") from error
    if not isinstance(said, dict):
        raise ResultsError(f"{path}: isn't a JSON object. {_ELSEWHERE}")
    return said


def _save(path: Path, said: Mapping[str, Any]) -> None:
    """Put an object into a file, whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def _read(path: Path) -> dict[tuple[str, str], Record]:
    """The records written so far. A last line cut short by a crash is taken off the file."""
    if not path.exists():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records = {}
    for place, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            record = Record(**json.loads(line.decode()))
        except (ValueError, TypeError, RecursionError) as error:
            raise ResultsError(f"{path}, line {place}: isn't a record: {error}.") from error
        records[record.place] = record
    return records
