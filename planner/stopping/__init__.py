"""Stopping rules: one a file, composed with `+` (`beta:0.95+certain`).

`certain` is part of every composition, as it can't change an answer; `none` alone takes every
candidate.
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


def _certain(setting: str | None) -> Rule:
    if setting is not None:
        raise ValueError("it takes no setting")
    return Certain()


def _beta(setting: str | None) -> Rule:
    threshold = float(setting) if setting is not None else 0.95
    if not 0.5 < threshold < 1.0:
        raise ValueError("its threshold must be between 0.5 and 1")
    return Beta(threshold)


def _confidence(setting: str | None) -> Rule:
    if setting is None:
        return Confidence()
    keep, colon, size = setting.partition(":")
    percent, window = float(keep), int(size) if colon else None
    if not 0.0 < percent < 100.0:
        raise ValueError("the percentage it keeps must be between 0 and 100")
    if window is not None and window < 1:
        raise ValueError("its window must be 1 token or more")
    return Confidence(percent, window)


RULES: dict[str, Callable[[str | None], Rule]] = {
    "certain": _certain,
    "beta": _beta,
    "confidence": _confidence,
}


@dataclass(frozen=True, slots=True)
class Stop:
    """Rules together: the first that fires, fires; the nearest horizon counts."""

    rules: tuple[Rule, ...]

    def verdict(self, view: View) -> Stopped | None:
        """What stops the search now; never anything once there is nothing left to save."""
        if view.remaining == 0:
            return None
        for rule in self.rules:
            if stopped := rule.verdict(view):
                return stopped
        return None

    def horizon(self, view: View) -> int | None:
        """The fewest further candidates after which any rule could fire."""
        known = [h for rule in self.rules if (h := rule.horizon(view)) is not None]
        return min(known, default=None)

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
        if name not in RULES:
            known = ", ".join([*RULES, "none"])
            raise InvalidOption(
                f"stop must be made of {known}, joined by '+', not {part!r}.", "longthink.stop"
            )
        try:
            rule = RULES[name](setting if colon else None)
        except ValueError as error:
            raise InvalidOption(f"stop {part!r}: {error}.", "longthink.stop") from None
        if not isinstance(rule, Certain):
            rules.append(rule)
    return Stop(tuple(rules))


__all__ = ["RULES", "Rule", "Stop", "View", "parse"]
