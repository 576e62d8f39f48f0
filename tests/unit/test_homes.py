"""Which replica each call of a batch goes to, and what is remembered of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.homes import SPARE, Homes, by_home

A, B = 0, 1


def met(*names: str) -> Homes:
    """Homes of replicas that are all known."""
    homes = Homes(len(names))
    for name in names:
        homes.settle(name, ())
    return homes


def at(shares: list[tuple[str, list[int]]], count: int) -> list[str]:
    """The replica of each call of a batch."""
    where = {place: name for name, share in shares for place in share}
    return [where[place] for place in range(count)]


@pytest.mark.parametrize(
    ("homes", "loads", "places"),
    [
        ([None] * 4, [0, 0], [A, B, A, B]),
        ([None] * 4, [3, 0], [B, B, B, A]),
        ([A, A, B, B], [0, 0], [A, A, B, B]),
        ([A] * SPARE, [0, 0], [A] * SPARE),
        # Whoever has a home is there before those who have none are spread around it.
        ([None, A, A], [0, 0], [B, A, A]),
        # Twelve stay: no more than twice four and four.
        ([A] * 16, [0, 0], [A] * 12 + [B] * 4),
        ([A] * 12 + [B] * 4, [0, 0], [A] * 12 + [B] * 4),
        # The last ones move, which are those of one parent.
        ([A, A, B, A, A], [6, 0], [A, A, B, B, B]),
        # Nothing moves to where it is no better.
        ([A], [9, 9], [A]),
        ([A], [50, 0], [B]),
    ],
)
def test_calls_go_home_unless_it_is_overloaded(
    homes: Sequence[int | None], loads: Sequence[int], places: list[int]
) -> None:
    """A branch stays with its replica until that has clearly more to do than another."""
    assert by_home(homes, loads) == places


@given(
    loads=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    homes=st.lists(st.none() | st.integers(0, 4), max_size=40),
)
def test_no_home_is_overloaded_by_its_own(loads: list[int], homes: list[int | None]) -> None:
    """Who goes home adds to no replica beyond the rule; without homes the work is spread evenly."""
    homes = [None if home is None else home % len(loads) for home in homes]
    places = by_home(homes, loads)
    after = [load + places.count(replica) for replica, load in enumerate(loads)]
    assert sum(after) == sum(loads) + len(homes)
    for replica in range(len(loads)):
        stayed = sum(home == place == replica for home, place in zip(homes, places, strict=True))
        assert not stayed or after[replica] <= 2 * min(after) + SPARE
    if all(home is None for home in homes):
        grown = [now for now, load in zip(after, loads, strict=True) if now > load]
        assert not grown or max(grown) <= min(after) + 1


def test_children_go_where_their_parent_was_written() -> None:
    """A node lives where it was written, and what continues it is sent there."""
    homes = met("a", "b")
    homes.settle("a", [("r", 0), ("r", 1)], "a")
    homes.settle("b", [("r", 2), ("r", 3)], "b")
    branches = [("r", 0, 0), ("r", 2, 0), ("r", 2, 1), ("r", 1, 0)]
    assert at(homes.share(branches, {}), 4) == ["a", "b", "b", "a"]


def test_the_nearest_ancestor_counts() -> None:
    """A node itself goes before its parent, a parent before what stands above it."""
    homes = met("a", "b")
    homes.settle("a", [("r", 0)], "a")
    homes.settle("b", [("r", 0, 0)], "b")
    assert at(homes.share([("r", 0, 0, 7, 7)], {}), 1) == ["b"]
    assert at(homes.share([("r", 0, 0)], {}), 1) == ["b"]
    assert at(homes.share([("r", 0, 1)], {}), 1) == ["a"]


def test_other_requests_live_elsewhere() -> None:
    """The same path in two requests is two nodes, and a request as a whole has no home."""
    homes = met("a", "b")
    homes.settle("b", [("r", 0)], "b")
    assert at(homes.share([("s", 0, 0), ("r", 1)], {"b": 1}), 2) == ["a", "a"]


def test_who_moves_stays_there() -> None:
    """A branch whose home is overloaded moves, and its children are sent where it moved to."""
    homes = met("a", "b")
    homes.settle("a", [("r", 0)], "a")
    assert at(homes.share([("r", 0, 0)], {"a": 30}), 1) == ["b"]
    homes.settle("b", [("r", 0, 0)], "b")
    assert at(homes.share([("r", 0, 0, 0), ("r", 0, 1)], {}), 2) == ["b", "a"]


def test_replicas_are_met_as_they_take_calls() -> None:
    """Until replicas are known, a batch is cut for them all the same, and goes out unnamed."""
    homes = Homes(2)
    assert homes.share([()] * 4, {}) == [("", [0, 2]), ("", [1, 3])]
    homes.settle("a", [])
    assert homes.share([()] * 4, {}) == [("a", [0, 2]), ("", [1, 3])]
    homes.settle("b", [])
    assert {name for name, _ in homes.share([()] * 4, {})} == {"a", "b"}


def test_a_batch_that_another_replica_took_says_that_its_home_is_gone() -> None:
    """What lived at a replica that doesn't take its calls any more goes anywhere."""
    homes = met("a", "b")
    homes.settle("a", [("r", 0)], "a")
    homes.settle("c", [("r", 0, 0)], "a")
    assert at(homes.share([("r", 0, 0, 0)], {"b": 1}), 1) == ["c"]
    assert at(homes.share([("r", 0, 1)], {"c": 1}), 1) == ["b"]


def test_a_replica_that_is_lost_is_met_again() -> None:
    """One that is gone is nobody's home; another takes its place, met by an unnamed share."""
    homes = met("a", "b")
    homes.settle("a", [("r", 0)], "a")
    homes.leave("a")
    assert at(homes.share([("r", 0, 0)], {"b": 1}), 1) == [""]
    homes.settle("c", [("r", 0, 0)])
    assert {name for name, _ in homes.share([()] * 2, {})} == {"b", "c"}


def test_one_that_is_gone_is_missing_until_another_is_met() -> None:
    homes = Homes(3)
    assert homes.missing == 0  # who was never met may well be there
    homes.settle("a", ())
    homes.settle("b", ())
    homes.leave("a")
    assert homes.missing == 1
    homes.leave("a")
    assert homes.missing == 1
    homes.settle("c", ())
    assert homes.missing == 0
    homes.settle("d", ())
    homes.settle("e", (), "b")
    assert homes.missing == 0


def test_who_is_in_the_place_of_one_that_is_gone_is_met_by_the_next_call() -> None:
    """Also where one call at a time is made, and who is known has nothing to do."""
    homes = Homes(2)
    homes.settle("a", ())
    homes.settle("b", ())
    homes.leave("b")
    assert homes.share([()], {}) == [("", [0])]
    homes.settle("c", ())
    assert homes.missing == 0


def test_no_more_replicas_are_known_than_there_should_be() -> None:
    """Of too many, the one that was heard of longest ago goes."""
    homes = met("a", "b")
    homes.settle("c", [])
    assert {name for name, _ in homes.share([()] * 4, {})} == {"b", "c"}


def test_a_branch_that_was_refused_goes_elsewhere() -> None:
    """Where a full replica refuses a call, the next try isn't bound to it."""
    homes = met("a", "b")
    homes.settle("a", [("r", 0), ("r", 0, 0)], "a")
    homes.evict(("r", 0, 0))
    assert at(homes.share([("r", 0, 0)], {"a": 1}), 1) == ["b"]


def test_memory_is_bounded() -> None:
    """The nodes that nobody asked for longest are forgotten first."""
    homes = Homes(2, most=3)
    homes.settle("b", [])
    homes.settle("a", [("r", 0), ("r", 1), ("r", 2)])
    homes.share([("r", 0, 0)], {})
    homes.settle("a", [("r", 3)], "a")
    loads = {"a": 1}
    assert at(homes.share([("r", 0, 0)], loads), 1) == ["a"]
    assert at(homes.share([("r", 1, 0)], loads), 1) == ["b"]


def test_of_many_replicas_all_get_their_turn() -> None:
    """Beyond those that are looked at for one batch, each has its turn all the same."""
    homes = met(*map(str, range(1000)))
    loads: Counter[str] = Counter()
    for _ in range(500):
        for name, share in homes.share([()] * 8, loads):
            loads[name] += len(share)
            homes.settle(name, ())
    assert set(loads.values()) == {4}
    assert len(loads) == 1000


def test_among_many_replicas_branches_find_their_home() -> None:
    """Where a branch lives is looked at wherever that is, and left if it is overloaded."""
    homes = met(*map(str, range(1000)))
    homes.settle("999", [("r", 1)])
    ((name, share),) = homes.share([("r", 1, 2)], {})
    assert (name, share) == ("999", [0])
    ((name, _),) = homes.share([("r", 1, 2)], {"999": 50})
    assert name != "999"
