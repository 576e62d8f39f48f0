"""Stopping rules: one a file, composed with `+` (`beta:0.95+certain`).

Some words say what holds anyway and change nothing: `certain` is part of every composition, as it
can't change an answer; `deadline` and `budget` end every search, whatever its rule, where the
request has them, and that is the driver's doing. `none` alone takes every candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.domain import Stopped
from planner.errors import InvalidOption
from planner.stopping.base import Rule, View
from planner.stopping.beta import Beta
from planner.stopping.certain import Certain
from planner.stopping.confidence import Confidence, WarmUp
from planner.stopping.consensus import Consensus
from planner.stopping.marginal import Marginal
from planner.stopping.window import Window


def _beta(setting: str | None) -> Rule:
    threshold = 0.95 if setting is None else _number(setting)
    if not 0.5 < threshold < 1.0:
        raise ValueError("its threshold must be between 0.5 and 1")
    return Beta(threshold)


def _window(setting: str | None) -> Rule:
    size = 5 if setting is None else _whole(setting)
    if size < 2:
        raise ValueError("its window must hold at least 2 candidates")
    return Window(size)


def _consensus(setting: str | None) -> Rule:
    answers = 5 if setting is None else _whole(setting)
    if answers < 2:
        raise ValueError("it must ask for at least 2 equal answers")
    return Consensus(answers)


def _marginal(setting: str | None) -> Rule:
    price = 0.01 if setting is None else _number(setting)
    if not 0.0 < price < 100.0:
        raise ValueError("its price, in points of accuracy a candidate, must be between 0 and 100")
    return Marginal(price)


def _confidence(setting: str | None) -> Rule:
    if setting is None:
        return Confidence()
    keep, colon, size = setting.partition(":")
    percent, window = _number(keep), _whole(size) if colon else None
    if not 0.0 < percent < 100.0:
        raise ValueError("the percentage it keeps must be between 0 and 100")
    if window is not None and window < 1:
        raise ValueError("its window must be 1 token or more")
    return Confidence(percent, window)


def _number(setting: str) -> float:
    try:
        return float(setting)
    except ValueError:
        raise ValueError(f"{setting!r} is not a number") from None


def _whole(setting: str) -> int:
    if not setting.strip().isdecimal() or len(setting) > 9:
        raise ValueError(f"{setting!r} is not a whole number that it could count to")
    return int(setting)


ALWAYS = ("certain", "deadline", "budget")

RULES: dict[str, Callable[[str | None], Rule]] = {
    "beta": _beta,
    "window": _window,
    "consensus": _consensus,
    "marginal": _marginal,
    "confidence": _confidence,
}


@dataclass(frozen=True, slots=True)
class Stop:
    """Rules together: the first that fires, fires; the nearest horizon counts."""

    rules: tuple[Rule, ...]

    def verdict(self, view: View) -> Stopped | None:
        """What stops the search now; never anything once there is nothing left to save."""
        if view.remaining == 0 or view.tally.finished == 0:
            return None
        for rule in self.rules:
            stopped = rule.verdict(view)
            # Votes say nothing of an answer that is chosen for its scores against them.
            if stopped is not None and (stopped is not Stopped.CONFIDENT or view.agreed):
                return stopped
        return None

    def horizon(self, view: View) -> int | None:
        """The fewest further candidates after which any rule could fire."""
        known = [h for rule in self.rules if (h := rule.horizon(view)) is not None]
        nearest = min(known, default=None)
        # What would fire now but for the answer chosen can't tell what will change that.
        return None if nearest == 1 and not view.agreed else nearest

    @property
    def needs_logprobs(self) -> bool:
        """Whether a rule looks at how sure the model was."""
        return self._strictest is not None

    def warm_up(self, candidates: int) -> WarmUp:
        """What finds the floor of a search of so many candidates."""
        return WarmUp(self._strictest, candidates)

    @property
    def _strictest(self) -> Confidence | None:
        rules = [rule for rule in self.rules if isinstance(rule, Confidence)]
        return min(rules, key=lambda rule: rule.keep, default=None)


def parse(text: str) -> Stop:
    """The rule that `text` writes. Raises InvalidOption that says what it could have been."""
    if text == "none":
        return Stop(())
    rules: list[Rule] = [Certain()]
    for part in text.split("+"):
        name, colon, setting = part.strip().partition(":")
        if name in ALWAYS and not colon:
            continue
        if name not in RULES:
            known = ", ".join([*ALWAYS, *RULES])
            raise InvalidOption(
                f"stop must be made of {known}, joined by '+', or be none alone, not {text!r}.",
                "longthink.stop",
            )
        try:
            rules.append(RULES[name](setting if colon else None))
        except ValueError as error:
            raise InvalidOption(f"stop {part!r}: {error}.", "longthink.stop") from None
    return Stop(tuple(rules))


__all__ = ["ALWAYS", "RULES", "Rule", "Stop", "View", "parse"]
