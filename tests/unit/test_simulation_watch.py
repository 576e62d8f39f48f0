"""What a simulation spends on itself is counted once, and the collector comes back as it was."""

from __future__ import annotations

import gc
from contextlib import suppress
from time import process_time

from services.simulation.watch import Watch


def burn(seconds: float) -> None:
    """Take so many CPU seconds."""
    until = process_time() + seconds
    while process_time() < until:
        pass


def test_what_is_nested_counts_once() -> None:
    """And what is outside doesn't count."""
    watch = Watch()
    with watch.simulating():
        burn(0.02)
        with watch.simulating():
            burn(0.02)
        burn(0.02)
    inside = watch.seconds
    burn(0.02)
    assert watch.seconds == inside
    assert 0.06 <= inside < 0.12


def test_what_fails_inside_counts_too() -> None:
    watch = Watch()
    with suppress(ValueError), watch.simulating():
        burn(0.01)
        int("lost")
    assert watch.seconds >= 0.01


def test_the_collector_is_given_back_once_the_last_is_done() -> None:
    """Several simulations on one clock end one after another, and share what counts for them."""
    usual, calls = gc.get_threshold(), list(gc.callbacks)
    watch = Watch()
    first, second = watch.collecting(), watch.collecting()
    first.__enter__()
    second.__enter__()
    during = gc.get_threshold()
    assert during > usual
    assert len(gc.callbacks) == len(calls) + 1
    first.__exit__(None, None, None)
    assert gc.get_threshold() == during
    second.__exit__(None, None, None)
    assert gc.get_threshold() == usual
    assert gc.callbacks == calls


def test_what_the_collector_takes_is_the_simulations() -> None:
    watch = Watch()
    with watch.collecting():
        before = watch.seconds
        gc.collect()
        assert watch.seconds > before
