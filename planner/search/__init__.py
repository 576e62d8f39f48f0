"""Strategies: one a file, all of them here."""

from __future__ import annotations

from collections.abc import Callable

from planner.domain import Query
from planner.effort import Effort
from planner.errors import InvalidOption
from planner.search.ab_mcts import BetaAbMcts, GaussianAbMcts
from planner.search.base import Search, Setup
from planner.search.beam import Beam
from planner.search.best_of_n import BestOfN
from planner.search.budget_forcing import BudgetForcing, ThinkingBudgetForcing
from planner.search.dvts import Dvts
from planner.search.judged import Judged
from planner.search.majority import Majority
from planner.search.mcts import Mcts, PuctMcts
from planner.search.particles import AnnealedParticles, MultinomialParticles, Particles
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


def search(name: str, setup: Setup) -> Search:
    """A new search by the strategy of that name."""
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise InvalidOption(f"strategy must be one of {known}, not {name!r}.", "longthink.strategy")
    made = STRATEGIES[name](setup)
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
    )
    return search(effort.strategy, setup)


__all__ = ["STRATEGIES", "Search", "Setup", "begin", "search"]
