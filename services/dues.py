"""What a request sets aside of its tenant's limits, from before it begins until it is over."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

from planner.domain import Cost, Prices, Query, Stopped
from planner.effort import Effort
from planner.funding import Lengths
from services.allowance import Allowance, Allowances, need
from services.driver import Driver, Manner
from services.resume import Before, allowed
from services.tenants import Tenant

_T = TypeVar("_T")

_WORTH = 32
"""With fewer tokens left to its tenant no request starts, where nothing is known of its answers.
Where something is, half of what one is likely to take will do.
"""


async def set_aside(
    allowances: Allowances | None,
    tenant: Tenant,
    trace_id: str,
    query: Query,
    effort: Effort,
    before: Before | None,
    *,
    context: int | None,
    lengths: Lengths,
    prices: Prices,
    whole: bool = False,
) -> Allowance | None:
    """Set aside what a request may still spend; with `whole`, all of it. None without limits.

    `context` is the model's in tokens, if it is known, and `lengths` are those of answers to
    prompts as long as this one. Raises OverLimit, LedgerUnavailable.
    """
    if allowances is None or tenant.limits is None:
        return None
    longest = min(query.sampling.max_tokens, context or query.sampling.max_tokens)
    needed = need(
        replace(effort, budget=allowed(effort.budget, before)),
        query,
        context=context,
        likely=_WORTH if lengths.mean is None else lengths.likely(longest) // 2,
        prices=prices,
    )
    if whole:
        needed = replace(needed, least=needed.most)
    return await allowances.reserve(tenant, trace_id, needed)


def within(allowance: Allowance, effort: Effort, before: Before | None) -> Effort:
    """The effort as its tenant's window has it. A budget counts what was spent `before`, too."""
    spent = before.spent if before else Cost()
    cut = {
        name: getattr(allowance.budget, name) + getattr(spent, name) for name in allowance.limited
    }
    budget = replace(effort.budget, **cut)
    most = effort.candidates if budget.candidates is None else budget.candidates
    return replace(effort, candidates=max(1, min(effort.candidates, most)), budget=budget)


def side_by_side(manner: Manner, allowance: Allowance | None) -> Manner:
    """How it is driven where its tenant may have so many candidates at a time."""
    if allowance is None:
        return manner
    most = min(manner.max_in_flight, allowance.candidates_at_once)
    return replace(manner, max_in_flight=most)


async def while_kept(allowance: Allowance | None, opening: Coroutine[Any, Any, _T]) -> _T:
    """What a request begins with. However long that takes, nobody else gets what it set aside."""
    return await (opening if allowance is None else allowance.while_kept(opening))


def held(allowance: Allowance | None, driver: Driver) -> AbstractAsyncContextManager[None]:
    """While inside, what the run has set aside stays so; where it was taken back, the run ends."""
    if allowance is None:
        return nullcontext()
    return allowance.kept(lambda: driver.stop(Stopped.BUDGET))
