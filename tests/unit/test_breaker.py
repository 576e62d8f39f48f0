"""Breakers: when a worker is left alone, and when it is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.breaker import (
    FIRST_PAUSE_SECONDS,
    FORGET_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LOSSES,
    PROBE_SECONDS,
    Breaker,
    Breakers,
)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    breaker.lost(now, hung=True)
    return breaker


def test_one_loss_opens_nothing_but_a_few_in_a_row_do() -> None:
    """A loss may be the call's own doing; what was done in between starts the count anew."""
    breaker = Breaker()
    for _ in range(LOSSES - 1):
        breaker.lost(0.0)
    breaker.well()
    for _ in range(LOSSES - 1):
        breaker.lost(0.0)
    assert breaker.state(0.0) == "closed"
    breaker.lost(0.0)
    assert breaker.state(0.0) == "open"
    assert not breaker.allows(0.0)


def test_a_worker_that_hangs_is_left_alone_at_once() -> None:
    """It wouldn't say no a second time: each call that it is given waits."""
    assert opened().state(0.0) == "open"


def test_one_probe_is_let_through_at_a_time() -> None:
    """After its pause one call goes to the worker, and no other until it is heard of."""
    breaker = opened()
    now = FIRST_PAUSE_SECONDS
    assert breaker.state(now) == "half-open"
    assert breaker.allows(now)
    breaker.sent(now)
    assert not breaker.allows(now)
    breaker.well()
    assert breaker.state(now) == "closed"
    assert breaker.allows(now)


def test_a_probe_that_nobody_hears_of_is_forgotten() -> None:
    """Whoever sent it may be gone; the worker must not stay shut for that."""
    breaker = opened()
    breaker.sent(FIRST_PAUSE_SECONDS)
    assert not breaker.allows(FIRST_PAUSE_SECONDS + PROBE_SECONDS)
    assert breaker.allows(FIRST_PAUSE_SECONDS + PROBE_SECONDS + 0.1)


def test_each_failed_probe_doubles_the_pause() -> None:
    """Up to a limit; what comes well ends that."""
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(8):
        pauses.append(breaker.until - now)
        now = breaker.until
        breaker.sent(now)
        breaker.lost(now)
    assert pauses[:3] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    breaker.well()
    breaker.lost(now, hung=True)
    assert breaker.until - now == FIRST_PAUSE_SECONDS


def test_what_was_under_way_when_it_opened_makes_the_pause_no_longer() -> None:
    """A worker that dies loses all it has at once: that is one failure."""
    breaker = opened()
    for _ in range(100):
        breaker.lost(0.1)
    assert breaker.until == FIRST_PAUSE_SECONDS


@given(st.lists(st.tuples(st.sampled_from(["lost", "hung", "well", "sent"]), st.floats(0, 40))))
def test_no_worker_is_shut_for_ever(events: list[tuple[str, float]]) -> None:
    """Whatever happened, after the longest pause and a probe's patience it is tried again."""
    breaker, now = Breaker(), 0.0
    for event, seconds in events:
        now += seconds
        match event:
            case "well":
                breaker.well()
            case "sent":
                breaker.sent(now)
            case _:
                breaker.lost(now, hung=event == "hung")
        assert breaker.allows(now + LONGEST_PAUSE_SECONDS + PROBE_SECONDS + 1)


def test_workers_are_shut_one_by_one_and_forgotten_when_gone() -> None:
    """Those that hang are named; of those that died and came back under another name none stays."""
    breakers = Breakers()
    breakers.of("a").lost(0.0, hung=True)
    breakers.of("b").lost(0.0)
    assert breakers.shut(0.5) == ("a",)
    assert breakers.states(0.5) == {"a": "open"}
    assert breakers.states(FIRST_PAUSE_SECONDS) == {"a": "half-open"}
    assert breakers.shut(FIRST_PAUSE_SECONDS) == ("a",)
    assert [breakers.probe(FIRST_PAUSE_SECONDS) for _ in range(2)] == ["a", ""]
    assert breakers.shut(FIRST_PAUSE_SECONDS + FORGET_SECONDS + 1) == ()
    assert breakers.states(FIRST_PAUSE_SECONDS + FORGET_SECONDS + 1) == {}


def test_as_many_are_remembered_as_there_may_be() -> None:
    """Names that come and go take no memory."""
    breakers = Breakers(most=10)
    for place in range(1000):
        breakers.of(f"worker-{place}").lost(0.0, hung=True)
    assert breakers.shut(0.0) == tuple(f"worker-{place}" for place in range(990, 1000))
