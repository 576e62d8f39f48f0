"""How much may be tried again, how late is late, and when the next try comes."""

from __future__ import annotations

import pytest

from services.second_tries import (
    FIRST_BACKOFF_SECONDS,
    HEDGE_MOST,
    LATE,
    LEAST_LATE_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    RETRY_MOST,
    RETRY_SHARE,
    Allowance,
    Paces,
    SecondTries,
    backoff,
)


def taken(allowance: Allowance, most: int = 10_000) -> int:
    """How many can be taken at once."""
    return sum(allowance.take() for _ in range(most))


def test_a_large_worker_may_die_without_a_call_given_up() -> None:
    """All that one has in flight may be tried again at once, and no more than that."""
    assert taken(SecondTries().retries) == RETRY_MOST


def test_where_all_is_lost_a_part_of_it_is_tried_again() -> None:
    """In the long run tries add their share to the load, however many calls are lost."""
    second = SecondTries()
    taken(second.retries)
    tried = 0
    for _ in range(1000):
        second.sent(10)
        tried += taken(second.retries, 10)
    assert tried == pytest.approx(RETRY_SHARE * 10_000, abs=1)


def test_nothing_is_saved_up_beyond_the_limit() -> None:
    """Long quiet times allow no storm after them."""
    second = SecondTries()
    second.sent(1_000_000)
    assert taken(second.retries) == RETRY_MOST
    assert taken(second.hedges) == HEDGE_MOST


def test_without_a_share_nothing_is_sent_twice_for_being_late() -> None:
    """That can be switched off."""
    second = SecondTries(hedge_share=0)
    second.sent(1000)
    assert not second.hedging
    assert not second.hedges.take()


def test_nothing_is_late_before_it_is_known_how_long_calls_take() -> None:
    """And what few short calls take says nothing."""
    paces = Paces()
    for _ in range(31):
        paces.saw(1.0, 100)
    for _ in range(100):
        paces.saw(1.0, 3)
    assert paces.late(100) is None
    paces.saw(1.0, 100)
    assert paces.late(100) == LATE


def test_late_goes_by_the_slow_ones_and_by_length() -> None:
    """A call is late that takes several times what the slowest twentieth do for as many tokens."""
    paces = Paces()
    for place in range(100):
        paces.saw(5.0 if place % 10 == 0 else 1.0, 100)
    assert paces.late(200) == pytest.approx(LATE * 10.0)
    assert paces.late(1) == LEAST_LATE_SECONDS


def test_old_paces_fade() -> None:
    """After a quick time a slow one is soon the measure, and the other way round."""
    paces = Paces()
    for _ in range(1000):
        paces.saw(10.0, 100)
    for _ in range(256):
        paces.saw(1.0, 100)
    assert paces.late(1000) == pytest.approx(LATE * 10.0)


def test_what_was_lost_together_is_tried_again_at_many_moments() -> None:
    """Later after each loss, up to a limit, and never all at once."""
    for losses, longest in [(1, 1), (2, 2), (3, 4)]:
        waits = [backoff(losses) for _ in range(200)]
        assert 0 <= min(waits) < max(waits) <= longest * FIRST_BACKOFF_SECONDS
        assert len(set(waits)) > 100
    assert max(backoff(50) for _ in range(200)) <= LONGEST_BACKOFF_SECONDS
