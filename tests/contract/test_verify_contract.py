"""The fake compares answers as the verifier does, and fails where it is told to."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.verify_contract import Comparing, VerifyContract, question, verified
from workers.fake import FakePool, Fault, Ruling


class TestFakePool(VerifyContract):
    """The contract, over the fake."""

    @pytest.fixture
    def comparing(self) -> Comparing:
        return FakePool()


@pytest.mark.parametrize("fault", ["failed", "lost"])
async def test_a_comparison_can_fail(fault: Fault) -> None:
    """A comparison fails as its ruling says."""
    pool = FakePool(compare=lambda call: Ruling(fault=fault))
    call = question("a", "b")
    assert (await verified(pool.verify((call,))))[call.id].finish == "failed"


async def test_a_hanging_comparison_ends_when_it_is_cancelled() -> None:
    """A comparison that hangs hangs until it is cancelled."""
    pool = FakePool(compare=lambda call: Ruling(fault="hang"))
    call = question("a", "b")
    waiting = asyncio.create_task(verified(pool.verify((call,))))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    await pool.cancel([call.id])
    assert (await waiting)[call.id].finish == "cancelled"


async def test_without_rules_nothing_is_compared() -> None:
    """A pool that can't compare says so, and fails what is asked all the same."""
    pool = FakePool(compare=None)
    assert not pool.verifies
    call = question("a", "b")
    assert (await verified(pool.verify((call,))))[call.id].finish == "failed"
