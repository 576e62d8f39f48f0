"""How long the candidates of one query are likely to be, by how long those before them were."""

from __future__ import annotations

from collections.abc import Collection

from planner.domain import Expand, Finish
from planner.funding import UNKNOWN, Growths, Lengths, Pace
from planner.search import Search
from services.flights import Flight


class SeenLengths:
    """The lengths of all requests alike, and those of one query's own candidates.

    What this query's own candidates take counts for more than what others' did, and those of a
    share are of another question. Lengths are in tokens.
    """

    def __init__(self, everyones: Growths, search: Search) -> None:
        self._all = everyones
        self._own: dict[str | None, Growths] = {None: everyones.followed(fade=0.25)}
        self._search = search

    @property
    def pace(self) -> Pace:
        """How fast candidates are written, whoever asks for them."""
        return self._all.pace

    @property
    def whole(self) -> Lengths:
        """Those of candidates that were written from the beginning to the end."""
        return self._own[None].whole

    def likely(self, flight: Flight) -> int:
        """What it is likely to take."""
        return self._like(flight).likely(flight.limit)

    def ample(self, flight: Flight) -> int:
        """What it hardly needs more than."""
        return self._like(flight).ample(flight.limit)

    def trust(self, flight: Flight, flying: Collection[Flight]) -> float:
        """How much of what is left may go by what is likely: all, once half of those begun ended.

        The first to end are the shortest. What has a share has only the share to lose.
        """
        seen = self._like(flight).seen
        running = sum(one.kind == flight.kind for one in flying)
        if flight.task.share is not None or seen >= max(1, running):
            return 1.0
        return 0.0 if running else UNKNOWN

    def least(self, likely: int, *, alone: bool) -> int:
        """The fewest tokens that one more candidate is worth starting with.

        While others run, those may give something back. Else half of what it is likely to take
        may do; and where nothing has finished yet, half an answer beats none.
        """
        if not alone:
            return likely
        finished, _ = self._search.progress()
        return max(1, likely // 2) if finished else 1

    def ended(self, flight: Flight, finish: Finish) -> None:
        """Take in how long a step was, or a candidate that was written from its beginning."""
        task, made = flight.task, len(flight.token_ids)
        if task.schema is not None and finish is Finish.STOP:
            self._all.bound.saw(made)
        own = task.share is None and task.messages is None
        for lengths in (self._of(task), *([self._all] if own else [])):
            if task.until == "step" and finish in (Finish.STEP, Finish.STOP):
                lengths.step.saw(made)
            if finish is Finish.STOP and task.counts and not task.append:
                lengths.whole.saw(len(flight.before) + made)

    def cut(self, flight: Flight) -> None:
        """Take in how long a candidate was when the budget ended it."""
        task = flight.task
        if task.counts and not task.append and task.messages is None and task.share is None:
            finished, _ = self._search.progress()
            whole = self._all.whole
            learn = whole.outgrew if finished else whole.missed
            learn(len(flight.before) + len(flight.token_ids))

    def _like(self, flight: Flight) -> Lengths:
        """The lengths of what is like it."""
        if flight.task.schema is not None:
            return self._all.bound
        return self._of(flight.task).of(flight.task.until)

    def _of(self, task: Expand) -> Growths:
        if task.share not in self._own:
            self._own[task.share] = self._own[None].followed(fade=0.25)
        return self._own[task.share]
