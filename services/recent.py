"""The most recent requests: capped sorted sets of trace ids, and a few facts of each beside them.

One set has those of all tenants, for operators, and each tenant has one of its own.

The facts are written with the events they come from: some when a trace opens, the others when it
closes. Nothing here outlives the traces themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.tenants import LOCAL

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

INDEX = "longthink:traces"
MOST = 200
"""So many requests are kept in an index."""

_LETTERS = 200


@dataclass(frozen=True, slots=True)
class Recent:
    """One request. `began` is in seconds since 1970, `seconds` how long it took, once it's over."""

    id: str
    began: float
    question: str
    strategy: str
    under_way: bool
    answer: str | None = None
    confidence: float | None = None
    stopped: str | None = None
    completion_tokens: int | None = None
    seconds: float | None = None


def note_opened(
    pipe: Pipeline, trace_id: str, data: Mapping[str, Any], *, now: float, ttl: int
) -> None:
    """Have `pipe` put a trace that opens at `now` into the index."""
    facts = {
        "began": now,
        "question": _question(data.get("query", {})),
        "strategy": data.get("effort", {}).get("strategy", ""),
    }
    for name in (INDEX, index(data.get("tenant", LOCAL.id))):
        # A pipeline only notes its commands; what they return means nothing yet.
        _ = pipe.zadd(name, {trace_id: now})
        _ = pipe.zremrangebyrank(name, 0, -MOST - 1)
        _ = pipe.expire(name, ttl)
    _note(pipe, trace_id, "opened", facts, ttl)


def note_closed(
    pipe: Pipeline, trace_id: str, data: Mapping[str, Any], *, seconds: float, ttl: int
) -> None:
    """Have `pipe` write down what a trace came to."""
    outcome = data.get("outcome", {})
    facts = {
        "answer": _short(outcome.get("answer")),
        "confidence": outcome.get("confidence"),
        "stopped": outcome.get("stopped"),
        "completion_tokens": data.get("spent", {}).get("completion_tokens"),
        "seconds": seconds,
    }
    _note(pipe, trace_id, "closed", facts, ttl)


def index(tenant_id: str) -> str:
    """The index of a tenant's own requests."""
    return f"{INDEX}:{tenant_id}"


def key(trace_id: str) -> str:
    """Where the facts of a trace are."""
    return f"longthink:{{{trace_id}}}:recent"


def recent(trace_id: str, facts: Mapping[str, str], *, growing: bool) -> Recent | None:
    """A request by its facts, or None where they have gone. `growing` says if its trace may be."""
    if "opened" not in facts:
        return None
    closed = json.loads(facts["closed"]) if "closed" in facts else {}
    under_way = growing and not closed
    return Recent(id=trace_id, under_way=under_way, **json.loads(facts["opened"]), **closed)


def _note(pipe: Pipeline, trace_id: str, name: str, facts: Mapping[str, Any], ttl: int) -> None:
    _ = pipe.hset(key(trace_id), name, json.dumps(facts))
    _ = pipe.expire(key(trace_id), ttl)


def _question(query: Mapping[str, Any]) -> str:
    """The beginning of what the user said last."""
    said = [one["content"] for one in query.get("messages", ()) if one["role"] == "user"]
    return _short(said[-1]) or "" if said else ""


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
