"""How a tenant stands to its limits, as `GET /v1/budget` and the headers of replies say it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from services.allowance import Allowance, Usage
from services.allowance.allowances import Used
from services.tenants import Tenant, TenantLimits

_MICRO = 1_000_000


def standing(tenant: Tenant, usage: Usage) -> dict[str, Any]:
    """The body of `GET /v1/budget`. A limit of null is none; dollars are said in dollars."""
    limits = tenant.limits or TenantLimits()
    window = {
        "usd" if name == "micro_usd" else name: _spent(
            used, _dollars if name == "micro_usd" else int
        )
        for name, used in usage.window.items()
    }
    rate = {"limit": limits.per_second, "burst": limits.burst if limits.per_second else None}
    return {
        "object": "budget",
        "tenant": tenant.id,
        "window_seconds": limits.window_seconds if tenant.limits else None,
        "window": window,
        "at_once": {
            "requests": _now(usage.requests),
            "candidates": _now(usage.candidates_at_once),
        },
        "requests_per_second": rate,
    }


def ratelimit(allowance: Allowance | None) -> dict[str, str]:
    """The headers by which OpenAI's clients know how much is left, for who is limited in tokens."""
    limits = allowance.tenant.limits if allowance else None
    if allowance is None or limits is None or limits.completion_tokens is None:
        return {}
    return {
        "x-ratelimit-limit-tokens": str(limits.completion_tokens),
        "x-ratelimit-remaining-tokens": str(allowance.left["completion_tokens"] or 0),
    }


def _spent(used: Used, of: Callable[[int], float]) -> dict[str, Any]:
    return {
        "limit": None if used.limit is None else of(used.limit),
        "used": of(used.spent),
        "held": of(used.held),
        "left": None if used.left is None else of(used.left),
        "frees_in_seconds": used.frees_in and math.ceil(used.frees_in),
        "free_in_seconds": used.free_in and math.ceil(used.free_in),
    }


def _now(used: Used) -> dict[str, int | None]:
    return {"limit": used.limit, "under_way": used.held, "left": used.left}


def _dollars(micro: int) -> float:
    return micro / _MICRO
