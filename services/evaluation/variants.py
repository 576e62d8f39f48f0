"""What an evaluation compares: a strategy, how it chooses and stops, and its width.

Written `strategy[/selector][@stop]`, as in `majority/weighted@beta:0.95`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planner.errors import InvalidOption
from planner.search import STRATEGIES
from planner.selection import selector
from planner.stopping import parse

ONE_PASS = "single"
"""The strategy that has one candidate, however many are asked for."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to answer a question. `written` is the strategy as it was typed."""

    written: str
    strategy: str
    selector: str | None
    stop: str | None
    candidates: int

    @property
    def key(self) -> str:
        """Names the variant in the results."""
        return f"{self.written} x{self.candidates}"

    def options(self) -> dict[str, Any]:
        """The `longthink` object of its requests."""
        said = {"strategy": self.strategy, "selector": self.selector, "stop": self.stop}
        return {
            **{key: value for key, value in said.items() if value is not None},
            "budget": {"candidates": self.candidates},
        }


def variants(written: Sequence[str], candidates: Sequence[int]) -> tuple[Variant, ...]:
    """Every strategy at every width, in the order given, `single` once. Raises InvalidOption."""
    if not written or not candidates:
        raise InvalidOption("Name at least one strategy and one number of candidates.")
    if min(candidates) < 1:
        raise InvalidOption(f"A number of candidates is 1 or more, not {min(candidates)}.")
    found = {}
    for text in written:
        strategy, selects, stop = _parts(text)
        for width in (1,) if strategy == ONE_PASS else candidates:
            variant = Variant(text, strategy, selects, stop, width)
            found[variant.key] = variant
    return tuple(found.values())


def _parts(text: str) -> tuple[str, str | None, str | None]:
    """Strategy, selector and stopping rule. Raises InvalidOption for a name that is unknown."""
    head, at, stop = text.partition("@")
    strategy, slash, selects = head.partition("/")
    if strategy not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise InvalidOption(f"{text!r}: the strategy must be one of {known}, not {strategy!r}.")
    try:
        if slash:
            selector(selects)
        if at:
            parse(stop)
    except InvalidOption as error:
        raise InvalidOption(f"{text!r}: {error}") from error
    return strategy, selects if slash else None, stop if at else None
