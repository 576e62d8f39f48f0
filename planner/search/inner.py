"""A search inside a search: one of another question, or of the same one in another way.

It knows nothing of where it stands. What always holds: its tasks go out with the path of the place
it has put before theirs, its own messages and its own share of the budget, and come back without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.domain import (
    Candidate,
    Cost,
    Expand,
    Grade,
    News,
    Path,
    Query,
    Result,
    Share,
    Task,
    Verify,
)
from planner.search.base import Search, Setup


@dataclass(frozen=True, slots=True)
class Recipe:
    """A strategy to search inside of another with; `name` as it is written."""

    name: str
    make: Callable[[Setup], Search]

    @property
    def strategy(self) -> str:
        """Its name without its selector and its rule, and without what is inside of it."""
        return re.split(r"[(/@]", self.name, maxsplit=1)[0]


class Inner:
    """A search under the node `path` of another one.

    `query` is its own question, None where it is that of the outer search. `share` pays for it,
    where it is named; else its tasks keep the shares they name themselves.
    """

    def __init__(
        self, search: Search, path: Path, *, query: Query | None = None, share: str | None = None
    ) -> None:
        self.search = search
        self.path = path
        self.share = share
        self.cost = Cost()
        self._messages = None if query is None else query.messages
        self._flying: dict[str, tuple[Task, Task]] = {}
        """By the id of a task as it went out: that, and the search's own."""

    @property
    def candidates(self) -> int:
        """How many candidates it has taken: those counted, or those finished if that is more."""
        return max(self.cost.candidates, self.search.progress()[0])

    def ask(self, room: int) -> list[Task]:
        """See `Search.ask`."""
        own = self.search.ask(room)
        out = [self._out(task) for task in own]
        self._flying.update((task.id, (task, mine)) for task, mine in zip(out, own, strict=True))
        return out

    def tell(self, task: Task, result: Result) -> bool:
        """See `Search.tell`; whether the task is of this search and was in flight."""
        known = self._flying.pop(task.id, None)
        if known is None:
            return False
        _, own = known
        self.cost += result.cost
        made = None if result.candidate is None else self._in(result.candidate)
        self.search.tell(own, replace(result, task_id=own.id, candidate=made))
        return True

    def surplus(self) -> list[Task]:
        """See `Search.surplus`."""
        unwanted = {task.id for task in self.search.surplus()}
        if not unwanted:
            return []
        return [out for out, own in self._flying.values() if own.id in unwanted]

    def all_in_flight(self) -> list[Task]:
        """Everything of it that is in flight."""
        return [out for out, _ in self._flying.values()]

    def ranked(self) -> tuple[Candidate, ...]:
        """The candidates of its outcome, as the outer search has them."""
        return tuple(map(self.rooted, self.search.best().ranked))

    def rooted(self, candidate: Candidate) -> Candidate:
        """A candidate of it, as the outer search has it."""
        return replace(candidate, path=(*self.path, *candidate.path))

    def news(self) -> list[News]:
        """See `Search.news`."""
        return [replace(one, data=self._told(one.data)) for one in self.search.news()]

    def shares(self) -> Mapping[str, Share]:
        """See `Search.shares`; none where a share of the outer search pays for all of it."""
        if self.share is not None:
            return {}
        return {self._rooted_share(name): one for name, one in self.search.shares().items()}

    def _rooted_share(self, name: str) -> str:
        """The name of a share of it, as the outer search has it: unlike those of any other."""
        return ".".join(map(str, self.path)) + ":" + name

    def _out(self, task: Task) -> Task:
        share = self.share
        if share is None and not isinstance(task, Verify) and task.share is not None:
            share = self._rooted_share(task.share)
        if isinstance(task, Expand):
            return replace(
                task,
                path=(*self.path, *task.path),
                parent=None if task.parent is None else self.rooted(task.parent),
                messages=task.messages or self._messages,
                share=share,
            )
        if isinstance(task, Grade):
            return replace(
                task,
                candidate=self.rooted(task.candidate),
                messages=task.messages or self._messages,
                share=share,
            )
        return replace(task, path=(*self.path, *task.path))

    def _in(self, candidate: Candidate) -> Candidate:
        return replace(candidate, path=candidate.path[len(self.path) :])

    def _told(self, data: Mapping[str, Any]) -> dict[str, Any]:
        told = dict(data)
        if "path" in told:
            told["path"] = [*self.path, *told["path"]]
        if "steps" in told:
            told["steps"] = [
                {**step, "path": [*self.path, *step["path"]]} for step in told["steps"]
            ]
        return told


class Outer(Search):
    """A search that has others inside: what all such share."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._inners: list[Inner] = []
        """All searches inside, those that have ended too, in the order they were begun in."""
        self._news: list[News] = []
        self._spent = setup.spent
        """Completion tokens of all that was told, and of what was spent before."""

    def _tell_inner(self, task: Task, result: Result) -> Inner | None:
        """Hand a result to the search that it is for; which that is."""
        teller = next((one for one in self._inners if one.tell(task, result)), None)
        if teller is not None:
            self._spent += result.cost.completion_tokens
        return teller

    def _tokens_unspent(self) -> int | None:
        """What is left to spend, one at least, so that a search inside has any; None, no limit."""
        return None if self.setup.tokens is None else max(1, self.setup.tokens - self._spent)

    def progress(self) -> tuple[int, int]:
        finished = sum(one.search.progress()[0] for one in self._inners)
        return finished, max(finished, self.setup.candidates)

    def news(self) -> Sequence[News]:
        told, self._news = self._news, []
        return [*told, *(news for one in self._inners for news in one.news())]


def first_in_turn(searches: Sequence[Inner], room: int) -> list[Task]:
    """Tasks of several searches, as far as there is room: each in turn gets an equal part of it.

    What one has no use for, those after it get.
    """
    tasks: list[Task] = []
    for place, one in enumerate(searches):
        left = room - len(tasks)
        if left < 1:
            break
        tasks += one.ask(max(1, left // (len(searches) - place)))
    return tasks
