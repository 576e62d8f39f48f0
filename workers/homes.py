"""Where the branches of a search live: which of a kind's replicas has their KV cache.

Owns the choice of a replica for each call of a pool. What always holds:

- every call gets a place, also while replicas are still to be met, come or go;
- what is remembered is bounded, and nothing of it is needed: a branch that was forgotten, or whose
  replica is gone, is simply read anew where the least is in flight.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from workers.messages import Branch

Place: TypeAlias = Callable[[Sequence[int | None], Sequence[int]], Sequence[int]]
"""Puts calls on replicas, which go by their numbers: of the home of each call, None where it has
none, and of how many calls each replica has in flight, it makes the replica of each call."""

SPARE = 4
"""Calls that a replica may have in flight, beyond twice those of the least busy one, before
branches that live there move."""

_CONSIDERED = 64
"""Replicas among which the least busy is looked for, and at least one a call. Of more than that it
is those that were given no calls for longest, and those where the branches live: so a choice takes
no longer among a thousand replicas."""

_MOST = 16_384
"""Nodes that are remembered. Each takes a few hundred bytes."""


def by_home(homes: Sequence[int | None], loads: Sequence[int]) -> list[int]:
    """Each call where its branch lives, the others where the least is in flight.

    A replica that would come to more than twice what the least busy one has, and `SPARE` more,
    gives up its last calls until it doesn't: those of one parent stand together in a batch, so
    that as few branches as can be are read a second time.
    """
    loads = list(loads)

    def add(place: int) -> int:
        loads[place] += 1
        return place

    def least() -> int:
        return loads.index(min(loads))

    at_home = [None if home is None else add(home) for home in homes]
    places = [add(least()) if home is None else home for home in at_home]
    for index in reversed(range(len(places))):
        if at_home[index] is not None and loads[places[index]] > 2 * min(loads) + SPARE:
            loads[places[index]] -= 1
            places[index] = add(least())
    return places


class Homes:
    """The replicas of one kind, as far as they are known by name, and who lives where.

    `replicas` is how many there should be. A name is known once a replica has taken calls; until
    then, a share without a name is for whichever replica has the least to do.
    """

    def __init__(self, replicas: int, place: Place = by_home, most: int = _MOST) -> None:
        self.replicas = replicas
        self._place = place
        self._most = most
        self._names: OrderedDict[str, None] = OrderedDict()
        """The one that was given calls last comes last."""
        self._met = 0
        """How many were known at once at most."""
        self._lives: OrderedDict[Branch, str] = OrderedDict()

    @property
    def missing(self) -> int:
        """How many of those that were known are gone, and have no other in their place yet."""
        return self._met - len(self._names)

    def share(
        self, branches: Sequence[Branch], loads: Mapping[str, int], rival: str = ""
    ) -> list[tuple[str, list[int]]]:
        """Whose turn each call is: replicas, each with the places of its calls in the batch.

        `loads` are the calls in flight by replica; those under "" are on their way to one that
        isn't known yet, and so is a share under "". Nothing is for the replica `rival`.
        """
        lives = [self._home(branch) for branch in branches]
        slots = self._considered(lives)
        if rival:
            slots = [name for name in slots if name != rival] or [""]
        number = {name: slot for slot, name in enumerate(slots) if name}
        homes = [number.get(name) for name in lives]
        chosen = self._place(homes, [loads.get(name, 0) for name in slots])
        shares: list[list[int]] = [[] for _ in slots]
        for index, slot in enumerate(chosen):
            shares[slot].append(index)
        return [(name, share) for name, share in zip(slots, shares, strict=True) if share]

    def _considered(self, lives: Sequence[str]) -> list[str]:
        """The replicas to choose from, "" for each that isn't known yet."""
        most = max(_CONSIDERED, len(lives))
        unknown = min(self.replicas - len(self._names), most)
        known = list(self._names)
        if len(known) > most:
            idle = islice(self._names, most)
            known = list(dict.fromkeys((*(name for name in lives if name), *idle)))
        if self.missing:
            return [*[""] * unknown, *known]  # whoever is new is met with the next call
        return [*known, *[""] * unknown]

    def settle(self, replica: str, branches: Iterable[Branch], meant: str = "") -> None:
        """A replica has taken calls of these branches. `meant` is the one they were sent to."""
        if meant != replica:
            self.leave(meant)
        self._names.pop(replica, None)
        self._names[replica] = None
        if len(self._names) > self.replicas:
            self.leave(next(iter(self._names)))
        self._met = max(self._met, len(self._names))
        for branch in branches:
            if branch:
                self._lives[branch] = replica
                self._lives.move_to_end(branch)
        while len(self._lives) > self._most:
            self._lives.popitem(last=False)

    def leave(self, replica: str) -> None:
        """A replica is gone, or doesn't answer: nobody lives there until it is met again."""
        self._names.pop(replica, None)

    def evict(self, branch: Branch) -> None:
        """The replica where this branch lives refused it: it may live anywhere now."""
        for line in _upwards(branch):
            self._lives.pop(line, None)

    def _home(self, branch: Branch) -> str:
        """The replica that has most of this branch; "" if none is known to have any of it."""
        for line in _upwards(branch):
            if (replica := self._lives.get(line, "")) in self._names:
                self._lives.move_to_end(line)
                return replica
        return ""


def _upwards(branch: Branch) -> Iterable[Branch]:
    """The node itself, its parent and so on, up to the first step. The request has no home."""
    return (branch[:end] for end in range(len(branch), 1, -1))
