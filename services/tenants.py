"""Tenants: who asks, and how they stand to one another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody whose requests are told apart from everybody else's.

    Where work has to wait, a tenant gets a part of what there is in proportion to its `weight`.
    Of `priority`, lower goes first, as in vLLM's scheduler.
    """

    id: str
    weight: float = 1.0
    priority: int = 0


LOCAL = Tenant("local")
"""Whoever asks a service that only this machine can reach, and needs no key."""
