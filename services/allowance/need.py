"""What a request needs of its tenant's window before it may start."""

from __future__ import annotations

from dataclasses import dataclass, fields

from planner.domain import Budget, Cost, Prices, Query
from planner.effort import Effort

DIMENSIONS = ("completion_tokens", "reward_tokens", "candidates", "micro_usd")
"""What windows are limited in, in the order of the scripts' vectors."""

_WIDER = 4
"""What a search takes besides its candidates, as a multiple of them: plans, the steps of a plan,
judgements, corrections, and each step's reading of all that stands before it."""


@dataclass(frozen=True, slots=True)
class Need:
    """`most` is what it may spend, and what it is held to; with less than `least` it isn't worth
    starting. `said` are the dimensions that the request itself limited.
    """

    most: Budget
    least: Budget
    said: frozenset[str]
    candidates_at_once: int


def need(effort: Effort, query: Query, *, context: int | None, likely: int, prices: Prices) -> Need:
    """What `effort` may come to for `query`.

    Where the request names a limit, that; else a bound from its candidates. `context` is the
    model's, where that is known, and `likely` what of one candidate is worth having, in tokens.
    """
    longest = (
        query.sampling.max_tokens if context is None else min(query.sampling.max_tokens, context)
    )
    # No token has less than a byte.
    prompt = sum(len(message.content.encode()) for message in query.messages) + 64
    prompt = prompt if context is None else min(prompt, context)
    written, read = _WIDER * effort.candidates * longest, prompt + longest
    spent = Cost(
        prompt_tokens=_WIDER * effort.candidates * read,
        completion_tokens=written,
        reward_tokens=_WIDER * effort.candidates * read,
        candidates=_WIDER * effort.candidates,
    )
    one = Cost(prompt_tokens=prompt, completion_tokens=min(likely, longest), candidates=1)
    most = _or(effort.budget, spent, prices)
    return Need(
        most,
        _least(most, one, prices),
        frozenset(it for it in DIMENSIONS if getattr(effort.budget, it) is not None),
        effort.candidates,
    )


def _or(budget: Budget, cost: Cost, prices: Prices) -> Budget:
    """The budget, and of what it doesn't limit, the cost."""
    said = {it.name: getattr(budget, it.name) for it in fields(budget)}
    bound = {
        "completion_tokens": cost.completion_tokens,
        "reward_tokens": cost.reward_tokens,
        "candidates": cost.candidates,
        "micro_usd": prices.micro_usd(cost),
    }
    return Budget(**{name: bound.get(name) if it is None else it for name, it in said.items()})


def _least(most: Budget, one: Cost, prices: Prices) -> Budget:
    """What one candidate takes, or all where that is less. Grading it can be done without."""
    return Budget(
        completion_tokens=min(most.completion_tokens or 0, one.completion_tokens),
        reward_tokens=0,
        candidates=min(most.candidates or 0, 1),
        micro_usd=min(most.micro_usd or 0, prices.micro_usd(one)),
    )
