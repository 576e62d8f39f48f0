"""Strategies: one a file, all of them here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from planner.domain import Query
from planner.effort import Effort
from planner.errors import InvalidOption
from planner.outlook import Outlook
from planner.search.ab_mcts import BetaAbMcts, GaussianAbMcts
from planner.search.atoms import Atoms
from planner.search.auto import Auto
from planner.search.base import Search, Setup
from planner.search.beam import Beam
from planner.search.best_of_n import BestOfN
from planner.search.budget_forcing import BudgetForcing, ThinkingBudgetForcing
from planner.search.dvts import Dvts
from planner.search.inner import Recipe
from planner.search.judged import Judged
from planner.search.least_to_most import LeastToMost
from planner.search.majority import Majority
from planner.search.mcts import Mcts, PuctMcts
from planner.search.particles import AnnealedParticles, MultinomialParticles, Particles
from planner.search.plan import PlanSearch
from planner.search.rebase import Rebase
from planner.search.recursive import Recursive
from planner.search.refine import Refine
from planner.search.single import Single
from planner.selection import selector
from planner.selection.judge import Judge
from planner.stopping import parse

STRATEGIES: dict[str, Callable[[Setup], Search]] = {
    "single": Single,
    "majority": Majority,
    "best_of_n": BestOfN,
    "beam": Beam,
    "dvts": Dvts,
    "rebase": Rebase,
    "particles": Particles,
    "particles_multinomial": MultinomialParticles,
    "particles_annealed": AnnealedParticles,
    "mcts": Mcts,
    "mcts_puct": PuctMcts,
    "ab_mcts": GaussianAbMcts,
    "ab_mcts_beta": BetaAbMcts,
    "refine": Refine,
    "recursive": Recursive,
    "budget_forcing": BudgetForcing,
    "budget_forcing_thinking": ThinkingBudgetForcing,
}


NESTING: dict[str, Callable[[Setup, Recipe], Search]] = {
    "plan": PlanSearch,
    "least_to_most": LeastToMost,
    "atoms": Atoms,
}
"""Strategies that search inside their steps, by a strategy that stands after them in brackets."""

_INSIDE = "majority"
"""The strategy inside where none is named."""


def _nested(name: str) -> Callable[[Setup], Search]:
    return lambda setup: search(name, setup)


STRATEGIES.update((name, _nested(name)) for name in NESTING)


def _auto(setup: Setup) -> Search:
    return Auto(setup, {way: _inside(name, 2) for way, name in AUTO.items()})


AUTO: dict[str, str] = {
    "probe": "majority",
    "tree": "particles",
    "decompose": "plan",
    "judge": "best_of_n/judge@none",
}
"""What `auto` decides between."""

STRATEGIES["auto"] = _auto

_DEEPEST = 3
_WRITTEN = re.compile(r"(\w+)(?:\((.*)\))?", re.DOTALL)


def search(name: str, setup: Setup) -> Search:
    """A new search by the strategy of that name, `plan(beam)` say. See `known`."""
    return recipe(name).make(setup)


def known(name: str) -> None:
    """Raises InvalidOption for a name that no strategy has, or one in brackets that hasn't."""
    recipe(name)


def recipe(name: str, depth: int = 1) -> Recipe:
    """The strategy of a name; in brackets may stand the one that searches its steps.

    That may name its own selector and stopping rule, as in `plan(majority/weighted@beta:0.95)`;
    else it has those of the strategy that it is in.
    """
    found = _WRITTEN.fullmatch(name.strip())
    outer, inside = (found[1], found[2]) if found else (name, None)
    if outer not in STRATEGIES or (inside is not None and outer not in NESTING):
        raise InvalidOption(
            f"strategy must be one of {', '.join(STRATEGIES)}, not {name!r}; "
            f"in brackets after {' or '.join(NESTING)} may stand another one.",
            "longthink.strategy",
        )
    if outer in NESTING:
        if depth > _DEEPEST:
            raise InvalidOption(
                f"strategies can't be nested more than {_DEEPEST} deep.", "longthink.strategy"
            )
        nesting, within = NESTING[outer], _inside(inside or _INSIDE, depth + 1)
        return Recipe(name, lambda setup: nesting(setup, within))
    return Recipe(name, lambda setup: _judged(setup, STRATEGIES[outer](setup)))


def _inside(name: str, depth: int) -> Recipe:
    """A strategy as it stands in brackets, with a selector and a rule of its own if it has them."""
    strategy, selecting, stopping = split(name)
    made = recipe(strategy, depth)
    if selecting is None and stopping is None:
        return made
    chosen = None if selecting is None else selector(selecting)
    rule = None if stopping is None else parse(stopping)

    def make(setup: Setup) -> Search:
        return made.make(replace(setup, selector=chosen or setup.selector, stop=rule or setup.stop))

    return Recipe(name, make)


def split(written: str) -> tuple[str, str | None, str | None]:
    """`strategy[/selector][@stop]`, taken apart outside of brackets."""
    end = written.rfind(")") + 1
    if end == 0:
        end = min((at for at in map(written.find, "/@") if at != -1), default=len(written))
    rest, _, stop = written[end:].partition("@")
    return written[:end], rest.removeprefix("/") or None, stop or None


def _judged(setup: Setup, made: Search) -> Search:
    return Judged(setup, made) if isinstance(setup.selector, Judge) else made


def begin(
    query: Query,
    effort: Effort,
    *,
    grades: bool,
    verifies: bool = False,
    context: int | None = None,
    tokens: int | None = None,
    likely: int | None = None,
    long: int | None = None,
    spent: int = 0,
    prompt: int | None = None,
    draft: int | None = None,
    timed: bool = False,
    doubts: bool = False,
    outlook: Mapping[str, Any] | None = None,
) -> Search:
    """A new search of `query` with this effort.

    `grades` says if there is a reward model, `verifies` if there is something to compare answers,
    and the others are those of `Setup`.
    Raises InvalidOption for a strategy, selector or rule that there is none of.
    """
    setup = Setup(
        query=query,
        candidates=effort.candidates,
        selector=selector(effort.selector),
        stop=parse(effort.stop),
        grades=grades,
        verifies=verifies,
        context=context,
        tokens=tokens,
        likely=likely,
        long=long,
        spent=spent,
        prompt=prompt,
        draft=draft,
        timed=timed,
        strict=effort.budget.candidates is not None,
        doubts=doubts,
        outlook=Outlook.read(outlook),
    )
    return search(effort.strategy, setup)


__all__ = ["AUTO", "NESTING", "STRATEGIES", "Search", "Setup", "begin", "known", "search", "split"]
