"""From what a request says to one `Effort`: strategy, selector, stopping rule, width and budget.

A preset (`reasoning_effort`) fills in what the request leaves open; an explicit option always wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.domain import Budget
from planner.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Effort:
    """How a request is thought about: settled, with nothing left open."""

    strategy: str
    selector: str
    stop: str
    candidates: int
    budget: Budget


@dataclass(frozen=True, slots=True)
class Options:
    """What a request says of it; None where it says nothing."""

    effort: str | None = None
    strategy: str | None = None
    selector: str | None = None
    stop: str | None = None
    budget: Budget = field(default=Budget())
    answers: int = 1
    """How many distinct answers the reply should show (OpenAI's `n`)."""


@dataclass(frozen=True, slots=True)
class Preset:
    """What one word of `reasoning_effort` means."""

    strategy: str
    selector: str
    stop: str
    candidates: int


PRESETS: Mapping[str, Preset] = {
    "none": Preset("single", "majority", "certain", 1),
    "minimal": Preset("auto", "weighted", "beta:0.95", 4),
    "low": Preset("auto", "weighted", "beta:0.95", 8),
    "medium": Preset("auto", "weighted", "beta:0.95", 16),
    "high": Preset("auto", "weighted", "beta:0.95", 32),
    "xhigh": Preset("auto", "weighted", "beta:0.95", 96),
    "max": Preset("auto", "weighted", "beta:0.95", 256),
}

_DECIDES = ("auto",)
"""Strategies that stop by themselves: they have the preset's rule also where they are named."""

_SELECTOR_OF = {"single": "majority", "majority": "majority", "best_of_n": "best"}


def settle(
    options: Options, *, presets: Mapping[str, Preset] = PRESETS, default: str = "medium"
) -> Effort:
    """The effort a request asked for; `default` is that of a request that names none.

    Names are checked by the registries that know them, when the search is made. A request that
    names its strategy gets exactly that: no stopping rule it didn't ask for but `certain`, which
    can't change an answer. One that wants several answers gets no rule but one that it asked for.
    """
    word = options.effort or default
    if word not in presets:
        raise InvalidOption(
            f"reasoning_effort must be one of {', '.join(presets)}, not {word!r}.",
            "reasoning_effort",
        )
    preset = presets[word]
    strategy = options.strategy or preset.strategy
    if options.strategy is None or options.strategy in _DECIDES:
        selector, stop = preset.selector, preset.stop
    else:
        selector, stop = _SELECTOR_OF.get(strategy, preset.selector), "certain"
    if options.answers > 1:
        # Rules ask whether the first answer may change. The others are better for every candidate.
        stop = "none"
    candidates = options.budget.candidates
    if candidates is None:
        candidates = max(preset.candidates, options.answers)
    return Effort(
        strategy=strategy,
        selector=options.selector or selector,
        stop=options.stop or stop,
        candidates=candidates,
        budget=options.budget,
    )
