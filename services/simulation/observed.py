"""What a trace says of how long its calls took and what they wrote.

A request of `best_of_n` whose candidates all have one length makes one batch of generation, and
then one of grading: their times are those from the moment they were asked to the last one's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from planner.answers import extract
from services.simulation.model import Sample

_EXPAND, _GRADE = "expand:", "grade:"


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of calls: how many, what they read that no cache had, wrote, and took in seconds.

    `steps` is the length of the longest in tokens, `kv` the sum of all contexts over all steps.
    """

    kind: Literal["generator", "reward"]
    calls: int
    prompt_tokens: int
    tokens: int
    steps: int
    kv: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Series:
    """Requests of one kind, one after another: what each of them made, and took of the machine.

    `batches` and `calls` are means a request, `cpu` its CPU seconds by kind of process. What goes
    to several workers at once are so many batches.
    """

    batches: float
    calls: float
    cpu: Mapping[str, float]


def asked_for(events: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """The batches and the calls that a trace asked workers for."""
    asked = [one["data"]["tasks"] for one in events if one["kind"] == "asked"]
    by = {one["data"]["id"]: one["data"].get("worker") for one in events if one["kind"] == "told"}
    batches = 0
    for tasks in asked:
        for kind in {task.partition(":")[0] for task in tasks}:
            workers = {by.get(task) for task in tasks if task.startswith(kind)} - {None, ""}
            batches += max(1, len(workers))
    return batches, sum(map(len, asked))


def batches(events: Sequence[Mapping[str, Any]]) -> list[Batch]:
    """The first batch of each kind in a trace."""
    found = (_batch(events, "generator", _EXPAND), _batch(events, "reward", _GRADE))
    return [one for one in found if one is not None]


def _batch(
    events: Sequence[Mapping[str, Any]], kind: Literal["generator", "reward"], prefix: str
) -> Batch | None:
    asked = next(
        (one for one in events if one["kind"] == "asked" and _all(one["data"]["tasks"], prefix)),
        None,
    )
    if asked is None:
        return None
    wanted = set(asked["data"]["tasks"])
    told = [one for one in events if one["kind"] == "told" and one["data"]["id"] in wanted]
    done = [one for one in told if one["data"]["status"] == "done"]
    if len(done) != len(wanted):
        return None
    costs = [one["data"]["cost"] for one in done]
    if kind == "reward":
        read = sum(cost["reward_tokens"] for cost in costs)
        seconds = max(one["seconds"] for one in done) - asked["seconds"]
        return Batch(kind, len(done), read, 0, 1, read, seconds)
    made = [cost["completion_tokens"] for cost in costs]
    read = sum(cost["prompt_tokens"] - cost["cached_tokens"] for cost in costs)
    kv = sum(
        cost["prompt_tokens"] * count + count * count // 2
        for cost, count in zip(costs, made, strict=True)
    )
    seconds = max(one["seconds"] for one in done) - asked["seconds"]
    return Batch(kind, len(done), read, sum(made), max(made), kv, seconds)


def _all(tasks: Sequence[str], prefix: str) -> bool:
    return bool(tasks) and all(task.startswith(prefix) for task in tasks)


def samples(events: Sequence[Mapping[str, Any]], delimiter: str) -> tuple[Sample, ...]:
    """The whole candidates of a trace, each with the scores of its steps if it was graded."""
    graded: dict[tuple[int, ...], tuple[float, ...]] = {}
    written = {}
    for event in events:
        data = event["data"]
        if event["kind"] != "told" or data["status"] != "done" or data["candidate"] is None:
            continue
        path = tuple(data["candidate"]["path"])
        if data["id"].startswith(_GRADE):
            graded[path] = tuple(data["candidate"]["step_scores"])
        elif data["id"].startswith(_EXPAND):
            written[path] = data["candidate"]
    return tuple(
        sample
        for path, candidate in written.items()
        if (sample := _sample(candidate, graded.get(path, ()), delimiter)) is not None
    )


def _sample(
    candidate: Mapping[str, Any], scores: tuple[float, ...], delimiter: str
) -> Sample | None:
    text, tokens = candidate["text"], len(candidate["token_ids"])
    steps = [step for step in text.split(delimiter) if step]
    if not steps or tokens < len(steps):
        return None
    answer = extract(text, ended=candidate["finish"] == "stop")
    return Sample(_lengths(steps, tokens), answer, scores if len(scores) == len(steps) else ())


def _lengths(steps: Sequence[str], tokens: int) -> tuple[int, ...]:
    """So many tokens split between steps by their letters, one at least for each."""
    letters = sum(map(len, steps))
    spare = tokens - len(steps)
    ends = [0]
    seen = 0
    for step in steps:
        seen += len(step)
        ends.append(spare * seen // letters)
    return tuple(1 + end - start for start, end in pairwise(ends))
