"""An engine that hangs is told from one that is idle."""

from __future__ import annotations

from workers.heart import Heart


class Engine:
    """Has work or not, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.busy = False
        self.heart = Heart(lambda: self.busy, lambda: self.now)


def test_an_idle_engine_never_hangs() -> None:
    """However long it has nothing to do, and as soon as it has."""
    engine = Engine()
    engine.now = 1000.0
    assert engine.heart.still() == 0
    engine.busy = True
    engine.now += 2.0
    assert engine.heart.still() == 2.0


def test_every_step_starts_the_count_anew() -> None:
    """Work that goes on for long isn't work that stands still."""
    engine = Engine()
    engine.busy = True
    for _ in range(10):
        engine.now += 5.0
        engine.heart.beat()
    engine.now += 1.0
    assert engine.heart.still() == 1.0


def test_an_engine_that_finishes_no_step_of_its_work_stands_still() -> None:
    """For as long as that lasts."""
    engine = Engine()
    engine.busy = True
    engine.now = 40.0
    assert engine.heart.still() == 40.0
