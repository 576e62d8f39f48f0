"""Programs as answers, over HTTP: they vote by what they give, run in the real sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
from redis.asyncio import Redis

from planner.domain import Prices
from services.budget import RedisLedger
from services.driver import Manner
from services.evaluation.retrace import retrace
from services.reasoning import Reasoner
from services.trace import TraceStore
from tests.contract.scripted_service import BODY, CHAT, Stage, serving
from workers.fake import FakePool, Script
from workers.messages import Generate, Verified, Verify
from workers.verifier import Verifier

PROGRAMS = (
    "def f(n):\n    return 2 * n",
    "def f(n): return n + n",
    "def f(n): return sum([n, n])",
    "def f(n): return n ** 2",
    "def f(n): return n ** 2  # again",
    "def f(n): raise ValueError(n)",
    "def f(n):\n    while True: pass",
)
"""Three double, two square, one fails and one hangs: no two are the same text."""


class RunningPool(FakePool):
    """Writes what it is told to, and compares as the service does."""

    def __init__(self, compares: bool = True) -> None:
        super().__init__(self._program, compare=None)
        self._verifier = Verifier() if compares else None

    @staticmethod
    def _program(call: Generate) -> Script:
        place = int(call.branch[-1])
        return Script(f"Here it is:\n```python\n{PROGRAMS[place % len(PROGRAMS)]}\n```")

    @property
    def verifies(self) -> bool:
        """Whether answers can be compared."""
        return self._verifier is not None

    def verify(self, batch: tuple[Verify, ...]) -> AsyncIterator[Verified]:
        """See `workers.ports.Pool`."""
        assert self._verifier is not None
        return self._verifier.verify(batch)

    async def cancel(self, ids: Collection[str]) -> None:
        """See `workers.ports.Pool`."""
        await super().cancel(ids)
        if self._verifier is not None:
            await self._verifier.cancel(ids)

    async def close(self) -> None:
        """End what compares."""
        if self._verifier is not None:
            await self._verifier.close()


async def _asked(
    redis: Redis, pool: RunningPool, code: dict[str, Any], count: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The reply to a request for programs, and its trace."""
    traces = TraceStore(redis)
    manner = Manner(prices=Prices(), step_delimiter="\n", late_seconds=1.0)
    reasoner = Reasoner(pool, RedisLedger(redis), traces, manner)
    ours = {"strategy": "majority", "stop": "none", "budget": {"candidates": count}, "code": code}
    async with serving(stage=Stage(real=reasoner, traces=traces)) as service:
        response = await service.http.post(CHAT, json={**BODY, "longthink": ours})
        assert response.status_code == 200, response.text
        reply: dict[str, Any] = response.json()
        trace = await service.http.get(f"/v1/traces/{reply['longthink']['trace_id']}")
    await reasoner.drain(5)
    await pool.close()
    return reply, trace.json()


@pytest.mark.parametrize("compares", [True, False])
async def test_programs_vote_by_what_they_give(redis_client: Redis, compares: bool) -> None:
    """The function that most of them are wins, whatever it looks like; faults are told."""
    pool = RunningPool(compares)
    code = {"inputs": ["[3]", "[5]"], "entry": "f"}
    reply, trace = await _asked(redis_client, pool, code, len(PROGRAMS))
    ours = reply["longthink"]
    counts = sorted((vote["count"] for vote in ours["votes"]), reverse=True)
    if compares:
        assert counts == [3, 2, 1, 1]
        assert ours["answer"] in PROGRAMS[:3]
        content = reply["choices"][0]["message"]["content"]
        assert any(program in content for program in PROGRAMS[:3])
        assert any("ValueError" in note for note in ours["notes"])
        assert any("longer than" in note or "processor time" in note for note in ours["notes"])
    else:
        assert counts == [1] * len(PROGRAMS)
        assert any("nothing to run programs" in note for note in ours["notes"])
    assert retrace(trace).same
