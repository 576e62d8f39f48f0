"""Tenants: who asks, how they stand to one another, and what each may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

IN_SCOPE = "longthink.tenant"
"""Where the ASGI scope of a request has its tenant."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may spend within any `window_seconds`, and do at a time; None for no limit.

    `requests` and `candidates_at_once` count what is under way at one moment. `per_second` is how
    many requests may begin a second on average, of which `burst` may come at once.
    """

    window_seconds: int = 3600
    completion_tokens: int | None = None
    reward_tokens: int | None = None
    candidates: int | None = None
    micro_usd: int | None = None
    requests: int | None = None
    candidates_at_once: int | None = None
    per_second: float | None = None
    burst: int = 1

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody whose requests are told apart from everybody else's.

    Where work has to wait, a tenant gets a part of what there is in proportion to its `weight`.
    Of `priority`, lower goes first, as in vLLM's scheduler. An `operator` sees all tenants' traces
    and the metrics. What has been read for one `cache_salt` is in no other's prefix cache. Without
    `limits` nothing is counted.
    """

    id: str
    weight: float = 1.0
    priority: int = 0
    operator: bool = False
    cache_salt: str = ""
    limits: TenantLimits | None = None

    def may_see(self, tenant_id: str) -> bool:
        """Whether what belongs to a tenant is this one's to see and to end."""
        return self.operator or tenant_id == self.id


LOCAL = Tenant("local", operator=True)
"""Whoever asks a service that only this machine can reach, and needs no key."""


def tenant_of(scope: Mapping[str, Any]) -> Tenant:
    """Who sent the request of this ASGI scope."""
    tenant = scope.get(IN_SCOPE, LOCAL)
    if not isinstance(tenant, Tenant):
        raise TypeError(f"{IN_SCOPE} must be a Tenant, not {tenant!r}.")
    return tenant
