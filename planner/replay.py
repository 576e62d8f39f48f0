"""Replays: a search is fed with what is on record instead of what workers send.

Two records can be fed to it. Samples are whole candidates, which any search will do with that
samples independently of what came before. A log is what one search asked and was told, which its
like can be led through again. Pure: the same record gives the same outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from planner.confidence import falls_at
from planner.domain import (
    Candidate,
    Cost,
    Expand,
    Finish,
    Floor,
    Outcome,
    Query,
    Result,
    Task,
    Verify,
)
from planner.effort import Effort
from planner.equivalence import may_be_same
from planner.errors import InvalidOption, LongthinkError
from planner.search import STRATEGIES, Search, begin
from planner.search.judged import Judged
from planner.search.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole candidate as it was recorded, with what is known of it.

    `answer` is the one it gives, as written; without it, the answer is looked for in `text`.
    `tokens` is its length, `score` its grade in [0, 1], `logprob` the sum over its tokens.
    `token_confidences` has one for each of them, or none where they aren't known.
    """

    text: str
    answer: str | None = None
    tokens: int | None = None
    score: float | None = None
    logprob: float | None = None
    token_confidences: tuple[float, ...] = ()

    def candidate(self, index: int) -> Candidate:
        """The sample as the `index`th candidate of a search, not graded yet."""
        return Candidate(
            (index,),
            self.text,
            finish=Finish.STOP,
            logprob=self.logprob,
            token_confidences=self.token_confidences,
            answer=self.answer,
        )

    def under(self, floor: Floor | None) -> tuple[Finish, int | None]:
        """How it ends under a floor, and after how many tokens, where that is known."""
        fallen = falls_at(self.token_confidences, floor) if floor else None
        return (Finish.STOP, self.tokens) if fallen is None else (Finish.DOUBTFUL, fallen)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a search made of recorded samples: it took the first `taken` of them.

    `planned` is how many it would have taken if nothing had stopped it. `tokens` is what it took,
    None where a sample doesn't say its length.
    """

    outcome: Outcome
    taken: int
    planned: int
    tokens: int | None


def replay_samples(
    query: Query,
    effort: Effort,
    samples: Sequence[Sample],
    *,
    grades: bool,
    same: Callable[[str, str], bool] | None = None,
) -> Replayed:
    """Search with `samples` in their order, at most `effort.candidates` of them.

    There is one worker, as it were: each sample, and then its grade, is told before the next one
    is asked for. So a stopping rule sees them one by one, and what it saves is saved. `grades`
    says whether there is a reward model; a sample without a score then is one it failed on. `same`
    compares two canonical answers that differ in form, as the verifier does; without it, those are
    two.

    Raises InvalidOption for a strategy that whole samples are no use for.
    """
    effort = replace(effort, candidates=min(effort.candidates, len(samples)))
    search = begin(query, effort, grades=grades, verifies=same is not None)
    _check(search, effort.strategy)
    lengths: list[int | None] = []
    while not search.done and (asked := search.ask(1)):
        for task in asked:
            if isinstance(task, Expand):
                lengths.append(samples[task.path[0]].under(task.floor)[1])
            search.tell(task, _end(task, samples, same))
    known = [length for length in lengths if length is not None]
    tokens = sum(known) if len(known) == len(lengths) else None
    return Replayed(search.best(), len(lengths), search.progress()[1], tokens)


def _check(search: Search, strategy: str) -> None:
    if isinstance(search, Judged):
        raise InvalidOption(
            "selector 'judge' can't be replayed over samples: it takes a model to judge them.",
            "longthink.selector",
        )
    if not isinstance(search, Sampling):
        able = ", ".join(filter(independent, STRATEGIES))
        raise InvalidOption(
            f"strategy {strategy!r} can't be replayed over samples: what it asks for hangs on what "
            "it was told, as where it continues a partial answer, and no record of whole samples "
            f"has that. Those that sample independently can be: {able}.",
            "longthink.strategy",
        )


def independent(strategy: str) -> bool:
    """Whether its candidates are samples that hang on nothing but the query."""
    kind = STRATEGIES.get(strategy)
    return isinstance(kind, type) and issubclass(kind, Sampling)


def _end(task: Task, samples: Sequence[Sample], same: Callable[[str, str], bool] | None) -> Result:
    """How the one worker, who only has the samples, ends a task."""
    if isinstance(task, Expand):
        (index,) = task.path
        finish, tokens = samples[index].under(task.floor)
        made = replace(samples[index].candidate(index), finish=finish)
        cost = Cost(completion_tokens=tokens or 0, candidates=1)
        return Result(task.id, "done", made, cost)
    if isinstance(task, Verify):
        return Result(task.id, "done", same=_groups(task, same or str.__eq__))
    (index,) = task.candidate.path
    score = samples[index].score
    if score is None:
        return Result(task.id, "failed", error="No score is on record.")
    return Result(task.id, "done", task.candidate.graded((score,), score))


def _groups(task: Verify, same: Callable[[str, str], bool]) -> tuple[tuple[str, ...], ...]:
    """The answers that are one, each compared with the first of every group there is."""
    groups = [[answer] for answer in task.answers[: task.apart]]
    for answer in task.answers[task.apart :]:
        for group in groups:
            if may_be_same(answer, group[0]) and same(answer, group[0]):
                group.append(answer)
                break
        else:
            groups.append([answer])
    return tuple(tuple(group) for group in groups if len(group) > 1)


@dataclass(frozen=True, slots=True)
class Asked:
    """An entry of a log: with so much room, the search asked for the tasks with these ids."""

    room: int
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hurried:
    """An entry of a log: the search was told that time is nearly up."""


Entry: TypeAlias = Asked | Hurried | Result
"""What happened to a search: it asked, or it was told a result or that time is nearly up."""


class Diverged(LongthinkError):
    """The search doesn't ask for what its log says it asked for."""


def replay_log(search: Search, log: Iterable[Entry]) -> Outcome:
    """Lead a new search through the log of one like it, in its order; its outcome at the end.

    Raises Diverged where it asks for something else, or is told of what it never asked for.
    """
    lead(search, log)
    return search.best()


@dataclass(frozen=True, slots=True)
class Led:
    """What a search was led through: all that it was told, and what it still waits for."""

    told: tuple[tuple[Task, Result], ...]
    awaited: tuple[Task, ...]


def lead(search: Search, log: Iterable[Entry]) -> Led:
    """Lead a new search through the log of one like it, in its order. Raises as `replay_log`."""
    awaited: dict[str, Task] = {}
    told: list[tuple[Task, Result]] = []
    for entry in log:
        if isinstance(entry, Result):
            task = awaited.pop(entry.task_id, None)
            if task is None:
                raise Diverged(f"{entry.task_id} was told, but isn't asked for.")
            search.tell(task, entry)
            told.append((task, entry))
            continue
        if isinstance(entry, Hurried):
            search.hurry()
            continue
        asked = search.ask(entry.room)
        names = tuple(task.id for task in asked)
        if names != entry.tasks:
            raise Diverged(f"Where {_named(entry.tasks)} was asked for, it now is {_named(names)}.")
        awaited.update((task.id, task) for task in asked)
    return Led(tuple(told), tuple(awaited.values()))


def _named(tasks: tuple[str, ...]) -> str:
    """The tasks in a few words."""
    shown = ", ".join(tasks[:4]) or "nothing"
    return shown if len(tasks) <= 4 else f"{shown} and {len(tasks) - 4} more"
