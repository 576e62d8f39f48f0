"""What is known of how right one model is, from answers that were looked up afterwards.

Data, as `longthink eval --calibrate` makes it and JSON carries it: a curve for each strategy with
its selector (see `planner.curves`), and what each way to answer was worth at its cost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from planner.curves import Curve, curve_data, read_curve

ANY = "*"
"""The name of the curve for all strategies that have none of their own."""


_BANDS = (1, 7, 31)
"""Outcomes of at most so many candidates have curves of their own."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What so many tokens were worth: the mean that a way to answer took, and its accuracy.

    `strategy` is as in evaluations, with its selector and its rule. `candidates` is what it was
    allowed, None where nothing named it. `probe` bounds the confidence that a vote of four had on
    the same questions, low < it <= high; None where that isn't known or all of them count.
    """

    strategy: str
    candidates: int | None
    tokens: float
    accuracy: float
    queries: int
    probe: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that is known of how right one model is: a curve a strategy, and what tokens bring.

    The curves are by `family`, and by ANY; those for outcomes of so many candidates have their
    `banded` names. `source` says on what they were fitted.
    """

    model: str
    curves: Mapping[str, Curve] = field(default_factory=dict)
    gains: tuple[Gain, ...] = ()
    source: str = ""

    def apply(self, strategy: str, selector: str, raw: float, finished: int) -> float | None:
        """How likely an answer chosen among `finished` candidates is right; None if none can tell.

        Without a curve of its own, a strategy with another inside it goes by that of its name
        alone, and any by the one for all.
        """
        plain = strategy.partition("(")[0]
        for name in (family(strategy, selector), family(plain, selector), ANY):
            for known in (banded(name, finished), name):
                if (curve := self.curves.get(known)) is not None:
                    return curve.apply(raw)
        return None

    def only(self, strategies: Collection[str]) -> Calibration:
        """The curves of these strategies, and those for all; nothing else."""
        wanted = {ANY, *strategies}
        curves = {
            name: curve
            for name, curve in self.curves.items()
            if name.partition(":")[0].partition("/")[0].partition("(")[0] in wanted
        }
        return Calibration(self.model, curves, source=self.source)

    def over(self, older: Calibration | None) -> Calibration:
        """What is known from both, this one first; the gains of both only of other strategies."""
        if older is None:
            return self
        mine = {gain.strategy for gain in self.gains}
        kept = tuple(gain for gain in older.gains if gain.strategy not in mine)
        curves = {**older.curves, **self.curves}
        return Calibration(self.model, curves, (*kept, *self.gains), self.source or older.source)


def family(strategy: str, selector: str) -> str:
    """The name under which outcomes of a strategy, chosen by a selector, share a curve."""
    return f"{strategy}/{selector}"


def banded(name: str, finished: int) -> str:
    """The name of the curve of a family (or of ANY) for outcomes of about so many candidates.

    A share of 4 votes is worth less than the same share of 64: a curve for both is off by 0.1 on
    the former.
    """
    most = next((most for most in _BANDS if finished <= most), None)
    return f"{name}:{'more' if most is None else most}"


def calibration_data(calibration: Calibration) -> dict[str, Any]:
    """The calibration as JSON."""
    return {
        "model": calibration.model,
        "source": calibration.source,
        "curves": {name: curve_data(curve) for name, curve in calibration.curves.items()},
        "gains": [gain_data(gain) for gain in calibration.gains],
    }


def read_calibration(data: Any) -> Calibration:
    """A calibration from JSON. Raises ValueError that says what is amiss."""
    try:
        return Calibration(
            model=str(data["model"]),
            curves={str(name): read_curve(curve) for name, curve in data["curves"].items()},
            gains=tuple(read_gain(gain) for gain in data["gains"]),
            source=str(data.get("source", "")),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it isn't a calibration: {error!r} is amiss") from error


def gain_data(gain: Gain) -> dict[str, Any]:
    """The gain as JSON."""
    return {**asdict(gain), "probe": None if gain.probe is None else list(gain.probe)}


def read_gain(data: Any) -> Gain:
    """A gain from JSON. Raises ValueError."""
    try:
        probe, candidates = data["probe"], data["candidates"]
        return Gain(
            strategy=str(data["strategy"]),
            candidates=None if candidates is None else int(candidates),
            tokens=float(data["tokens"]),
            accuracy=float(data["accuracy"]),
            queries=int(data["queries"]),
            probe=None if probe is None else (float(probe[0]), float(probe[1])),
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"it isn't a gain: {error!r} is amiss") from error
