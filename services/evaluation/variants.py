"""What an evaluation compares: a strategy, how it chooses and stops, and what it may spend.

Written `strategy[/selector][@stop]`, as in `majority/weighted@beta:0.95`.

What it may spend is a number n, of candidates or of candidates' worth. n candidates are
`budget.candidates` of a request. n candidates' worth are as many completion tokens as n single
samples take on average, `budget.completion_tokens`, which no request may exceed; with as many
candidates as make the most of them (see `Worth`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from planner.errors import InvalidOption
from planner.search import STRATEGIES
from planner.selection import selector
from planner.stopping import parse
from services.evaluation.results import Results
from services.settings import MOST_CANDIDATES

ONE_PASS = "single"
"""The strategy that has one candidate, however many are asked for."""


_OPEN_ENDED = ("majority", "best_of_n", "mcts", "ab_mcts", "refine")
"""Strategies, with all that are named after them, that go on until their budget is used up."""

_NARROWING = ("beam", "dvts", "rebase", "particles")
"""Those that get narrower where the budget brings fewer candidates to their ends.

All others plan for a number of candidates from the start, and come to little if the tokens run out
half way.
"""

_ENOUGH = 4
"""An open-ended strategy may have so many times n candidates: questions differ in length."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What a candidate's worth is: `tokens` is the mean completion tokens of a single sample.

    A strategy that plans ahead, and can't change its plan, gets `width` * n candidates, to the
    nearest: with less than 1, it can finish on questions whose solutions are longer than the mean.
    """

    tokens: float
    width: float

    def limits(self, strategy: str, n: int) -> dict[str, int]:
        """The budget of a request for n candidates' worth.

        For n = 1 it is one candidate as it comes: cut at the mean, half of them would be lost.
        """
        if n == 1:
            return {"candidates": 1}
        share = self.width
        if strategy.startswith(_OPEN_ENDED):
            share = _ENOUGH
        elif strategy.startswith(_NARROWING):
            share = 1.0
        return {
            "candidates": min(MOST_CANDIDATES, max(1, int(share * n + 0.5))),
            "completion_tokens": self.most(n),
        }

    def most(self, n: int) -> int:
        """The completion tokens of n candidates' worth."""
        return max(1, round(n * self.tokens))


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to answer a question. `written` is the strategy as it was typed.

    `candidates` counts candidates, or candidates' worth where `worth` says so.
    """

    written: str
    strategy: str
    selector: str | None
    stop: str | None
    candidates: int
    worth: bool = False

    @classmethod
    def named(cls, key: str) -> Self:
        """The variant with this key. Raises InvalidOption."""
        text, _, spending = key.rpartition(" ")
        strategy, selects, stop = _parts(text)
        return cls(text, strategy, selects, stop, int(spending[1:]), spending[0] == "~")

    @property
    def key(self) -> str:
        """Names the variant in the results."""
        return f"{self.written} {'~' if self.worth else 'x'}{self.candidates}"

    def options(self, worth: Worth | None = None) -> dict[str, Any]:
        """The `longthink` object of its requests; `worth` is needed where it counts in that."""
        said = {"strategy": self.strategy, "selector": self.selector, "stop": self.stop}
        limits = {"candidates": self.candidates}
        if self.worth and worth is not None:
            limits = worth.limits(self.strategy, self.candidates)
        return {
            **{key: value for key, value in said.items() if value is not None},
            "budget": limits,
        }


SINGLE = Variant(ONE_PASS, ONE_PASS, None, None, 1)
"""One sample as it comes, whose mean length is a candidate's worth of tokens."""


def on_record(results: Results) -> tuple[Variant, ...]:
    """All that were ever measured there, in the order of their first replies."""
    return tuple(Variant.named(key) for key in results.variants)


def variants(
    written: Sequence[str], candidates: Sequence[int], budgets: Sequence[int] = ()
) -> tuple[Variant, ...]:
    """Every strategy with all these, in the order given, `single` once.

    Raises InvalidOption.
    """
    if not written or not (candidates or budgets):
        raise InvalidOption("Name at least one strategy and one number of candidates.")
    least = min((*candidates, *budgets))
    if least < 1:
        raise InvalidOption(f"A number of candidates is 1 or more, not {least}.")
    if (most := max((*candidates, *budgets))) > MOST_CANDIDATES:
        raise InvalidOption(f"A number of candidates is {MOST_CANDIDATES} or less, not {most}.")
    found = {}
    for text in written:
        strategy, selects, stop = _parts(text)
        for width, worth in _spendings(strategy, candidates, budgets):
            variant = Variant(text, strategy, selects, stop, width, worth)
            found[variant.key] = variant
    return tuple(found.values())


def _spendings(
    strategy: str, candidates: Sequence[int], budgets: Sequence[int]
) -> Iterator[tuple[int, bool]]:
    """Each number, and whether it counts candidates' worth."""
    if strategy == ONE_PASS:
        yield 1, False
        return
    for number in candidates:
        yield number, False
    for number in budgets:
        yield number, True


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
