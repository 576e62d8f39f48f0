"""What requests are likely to take, learned from those that have ended.

Pure arithmetic. Sizes are candidates, times are seconds. Requests are alike that search in the same
way for about as many candidates, within a factor of two: so there are few kinds, whatever is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Mean:
    """A running mean of the last `memory` or so; None before the first.

    `spread` is how far they lie from it, on average.
    """

    memory: int
    value: float | None = None
    spread: float = 0.0
    seen: float = 0.0

    def saw(self, value: float, weight: float = 1.0) -> None:
        """Take in one more, which counts `weight` times."""
        if self.value is None:
            self.value = value
        self.seen = min(self.seen + weight, self.memory)
        part = min(1.0, weight / self.seen)
        self.spread += part * (abs(value - self.value) - self.spread)
        self.value += part * (value - self.value)


@dataclass(frozen=True, slots=True)
class Kind:
    """What requests have in common that are alike: a strategy's name, and the candidates asked."""

    strategy: str
    candidates: int

    @property
    def alike(self) -> tuple[str, int]:
        """The same for all requests of the kind."""
        return self.strategy, self.candidates.bit_length()


@dataclass(slots=True)
class Expectations:
    """How many candidates a kind of request really draws, how long it takes, and how long any."""

    memory: int
    _drawn: dict[tuple[str, int], Mean] = field(default_factory=dict)
    _seconds: dict[tuple[str, int], Mean] = field(default_factory=dict)
    _turnover: Mean = field(init=False)
    _full: Mean = field(init=False)

    def __post_init__(self) -> None:
        self._turnover, self._full = Mean(self.memory), Mean(self.memory)

    def width(self, kind: Kind) -> float:
        """The candidates that it is likely to draw, of those that it asks for; at least one."""
        part = self._drawn.get(kind.alike)
        asked = kind.candidates
        return max(1.0, asked if part is None or part.value is None else part.value * asked)

    def seconds(self, kind: Kind) -> float | None:
        """How long nearly all of them take, the mean and twice the spread; None where none has
        ended yet.
        """
        mean = self._seconds.get(kind.alike)
        return None if mean is None or mean.value is None else mean.value + 2 * mean.spread

    @property
    def turnover(self) -> float | None:
        """How long a candidate's place is likely to be taken where all are: the mean over those
        that were, or over all requests if that is longer. The fuller an engine, the slower it is,
        so those that ran when there was little to do say nothing of a wait. Where many have ended
        since it was full, what was seen then says nothing any more.
        """
        if self._full.value is None or self._full.seen < 1:
            return self._turnover.value
        return max(self._full.value, self._turnover.value or 0.0)

    def saw(
        self, kind: Kind, width: float, *, drawn: int, seconds: float, full: bool = False
    ) -> None:
        """Learn from a request that took places for `width` candidates and has ended; `full`:
        all places were taken while it ran.
        """
        # One of many candidates takes many places, but is one sight of how long they are taken.
        width = min(width, self.memory / 8)
        part = min(1.0, drawn / kind.candidates)
        self._drawn.setdefault(kind.alike, Mean(self.memory)).saw(part)
        self._seconds.setdefault(kind.alike, Mean(self.memory)).saw(seconds)
        self._turnover.saw(seconds, width)
        if full:
            self._full.saw(seconds, width)
        else:
            self._full.seen *= 1 - 1 / self.memory
