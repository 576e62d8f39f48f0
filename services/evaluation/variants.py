"""What an evaluation compares: a strategy, how it chooses and stops, and what it may spend.

Written `strategy[/selector][@stop]`, as in `majority/weighted@beta:0.95`. A strategy with others
inside it has them in brackets, as in `plan(majority/weighted@beta:0.95)/weighted`. Or it is a word
of `reasoning_effort`, as in `effort=high`: no strategy is named then, and the service decides.

What it may spend is a number n, of candidates or of candidates' worth, and a time. n candidates are
`budget.candidates` of a request. n candidates' worth are as many completion tokens as n single
samples take on average, `budget.completion_tokens`, which no request may exceed; with as many
candidates as make the most of them (see `Worth`). The time is `budget.deadline_seconds`. An effort
says by itself what it spends, but for the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args

from planner.effort import Options, settle
from planner.errors import InvalidOption
from planner.search import known
from planner.selection import selector
from planner.stopping import parse
from services.evaluation.results import Results
from services.settings import MOST_CANDIDATES, EffortWord

ONE_PASS = "single"
"""The strategy that has one candidate, however many are asked for."""

EFFORTS: tuple[str, ...] = get_args(EffortWord)
"""The words of `reasoning_effort`, from the least to the most."""

EFFORT = "effort="
"""What an effort is written with."""

_OPEN_ENDED = (
    *("majority", "best_of_n", "mcts", "ab_mcts", "refine"),
    *("plan", "least_to_most", "atoms", "auto"),
)
"""Strategies, with all that are named after them, that go on until their budget is used up."""

_NARROWING = ("beam", "dvts", "rebase", "particles")
"""Those that get narrower where the budget brings fewer candidates to their ends.

All others plan for a number of candidates from the start, and come to little if the tokens run out
half way.
"""

_ENOUGH = 4
"""An open-ended strategy may have so many times n candidates: questions differ in length."""

_KEY = re.compile(r"(?P<written>.*?)(?: (?P<kind>[x~])(?P<n>\d+))?(?: <(?P<due>[\d.e+-]+)s)?")


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

    `candidates` counts candidates, or candidates' worth where `worth` says so; None where nothing
    names them. `deadline` is in seconds. With an `effort` there is no strategy.
    """

    written: str
    strategy: str
    selector: str | None
    stop: str | None
    candidates: int | None
    worth: bool = False
    deadline: float | None = None
    effort: str | None = None

    @classmethod
    def named(cls, key: str) -> Self:
        """The variant with this key. Raises InvalidOption."""
        found = _KEY.fullmatch(key)
        if found is None:
            raise InvalidOption(f"{key!r} is no key of a variant.")
        written, n, due = found["written"], found["n"], found["due"]
        return cls.of(
            written,
            None if n is None else int(n),
            worth=found["kind"] == "~",
            deadline=None if due is None else float(due),
        )

    @classmethod
    def of(
        cls,
        written: str,
        candidates: int | None,
        *,
        worth: bool = False,
        deadline: float | None = None,
    ) -> Self:
        """The variant that is written so. Raises InvalidOption for a name that is unknown."""
        if written.startswith(EFFORT):
            word = _effort(written.removeprefix(EFFORT))
            return cls(written, "", None, None, None, deadline=deadline, effort=word)
        strategy, selects, stop = _parts(written)
        return cls(written, strategy, selects, stop, candidates, worth, deadline)

    @property
    def key(self) -> str:
        """Names the variant in the results."""
        number = (
            "" if self.candidates is None else f" {'~' if self.worth else 'x'}{self.candidates}"
        )
        due = "" if self.deadline is None else f" <{self.deadline:g}s"
        return f"{self.written}{number}{due}"

    @property
    def settled(self) -> tuple[str, str]:
        """Strategy and selector as the service has them, where its profile changes nothing."""
        effort = settle(
            Options(
                effort=self.effort, strategy=self.strategy or None, selector=self.selector or None
            )
        )
        return effort.strategy, effort.selector

    def options(self, worth: Worth | None = None) -> dict[str, Any]:
        """The `longthink` object of its requests; `worth` is needed where it counts in that."""
        said = {"strategy": self.strategy or None, "selector": self.selector, "stop": self.stop}
        limits: dict[str, float] = {}
        if self.worth and worth is not None and self.candidates is not None:
            limits.update(worth.limits(self.strategy, self.candidates))
        elif self.candidates is not None:
            limits["candidates"] = self.candidates
        if self.deadline is not None:
            limits["deadline_seconds"] = self.deadline
        return {
            **{key: value for key, value in said.items() if value is not None},
            **({"budget": limits} if limits else {}),
        }


SINGLE = Variant(ONE_PASS, ONE_PASS, None, None, 1)
"""One sample as it comes, whose mean length is a candidate's worth of tokens."""


def on_record(results: Results) -> tuple[Variant, ...]:
    """All that were ever measured there, in the order of their first replies."""
    return tuple(Variant.named(key) for key in results.variants)


def variants(
    written: Sequence[str],
    candidates: Sequence[int],
    budgets: Sequence[int] = (),
    *,
    deadlines: Sequence[float] = (),
    efforts: Sequence[str] = (),
) -> tuple[Variant, ...]:
    """Every strategy with all these, in the order given, `single` once; then the efforts.

    With deadlines, each has each of them. Raises InvalidOption.
    """
    _check(written, candidates, budgets, deadlines, efforts)
    dues: Sequence[float | None] = deadlines or (None,)
    found = {}
    for text in written:
        strategy, _, _ = _parts(text)
        for width, worth in _spendings(strategy, candidates, budgets):
            for due in dues:
                variant = Variant.of(text, width, worth=worth, deadline=due)
                found[variant.key] = variant
    for word in efforts:
        for due in dues:
            variant = Variant.of(f"{EFFORT}{word}", None, deadline=due)
            found[variant.key] = variant
    return tuple(found.values())


def split_outside(text: str, mark: str) -> tuple[str, ...]:
    """What the marks part, but for those in brackets. Raises InvalidOption for brackets amiss."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            break
        if sign == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    if depth:
        raise InvalidOption(f"{text!r}: its brackets must be closed, each as it was opened.")
    return tuple(parts)


def _check(
    written: Sequence[str],
    candidates: Sequence[int],
    budgets: Sequence[int],
    deadlines: Sequence[float],
    efforts: Sequence[str],
) -> None:
    if not (written or efforts) or (written and not (candidates or budgets or deadlines)):
        raise InvalidOption("Name at least one strategy and one number of candidates.")
    numbers = (*candidates, *budgets)
    if numbers and (least := min(numbers)) < 1:
        raise InvalidOption(f"A number of candidates is 1 or more, not {least}.")
    if numbers and (most := max(numbers)) > MOST_CANDIDATES:
        raise InvalidOption(f"A number of candidates is {MOST_CANDIDATES} or less, not {most}.")
    if not all(0 < one < float("inf") for one in deadlines):
        raise InvalidOption("A deadline is more than 0 seconds.")


def _spendings(
    strategy: str, candidates: Sequence[int], budgets: Sequence[int]
) -> Iterator[tuple[int | None, bool]]:
    """Each number, and whether it counts candidates' worth; None where there is only a time."""
    if strategy == ONE_PASS:
        yield 1, False
        return
    for number in candidates:
        yield number, False
    for number in budgets:
        yield number, True
    if not (candidates or budgets):
        yield None, False


def _parts(text: str) -> tuple[str, str | None, str | None]:
    """Strategy, selector and stopping rule. Raises InvalidOption for a name that is unknown."""
    head, *stops = split_outside(text, "@")
    strategy, *selects = split_outside(head, "/")
    try:
        known(strategy)
        if selects:
            selector("/".join(selects))
        if stops:
            parse("@".join(stops))
    except InvalidOption as error:
        raise InvalidOption(f"{text!r}: {error}") from error
    return (
        strategy,
        "/".join(selects) if selects else None,
        "@".join(stops) if stops else None,
    )


def _effort(word: str) -> str:
    if word not in EFFORTS:
        raise InvalidOption(f"An effort must be one of {', '.join(EFFORTS)}, not {word!r}.")
    return word
