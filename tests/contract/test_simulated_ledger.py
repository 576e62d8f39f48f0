"""The ledger in memory keeps to the contract of the one on Redis: its very tests, once more."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from planner.domain import Budget
from planner.errors import UnknownBudget
from planner.ports import Ledger
from services.simulation.ledger import Books, MemoryLedger
from tests.contract import test_ledger_children_contract, test_ledger_contract
from tests.contract.promises import promises


@pytest.mark.parametrize(
    ("promise", "arguments"), promises(test_ledger_contract, test_ledger_children_contract)
)
async def test_it_promises_what_ledgers_do(
    promise: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    """What the ledger on Redis promises, this one promises too."""
    books: Books = {}

    def leased(seconds: float) -> Ledger:
        return MemoryLedger(books, lease_seconds=seconds)

    ledgers = {"ledger": leased(10), "leased": leased, "brief": leased(0.05)}
    wanted = inspect.signature(promise).parameters
    await promise(**{name: it for name, it in (ledgers | arguments).items() if name in wanted})


async def test_a_call_takes_its_time() -> None:
    """Each call takes what a round trip is said to take."""
    ledger = MemoryLedger(seconds=0.02)
    began = asyncio.get_running_loop().time()
    await ledger.open("r", Budget())
    await ledger.account("r")
    assert asyncio.get_running_loop().time() - began >= 0.04


async def test_a_request_that_is_forgotten_is_gone_with_its_children() -> None:
    """Nothing of it stays in memory, and others' budgets do."""
    books: Books = {}
    ledger = MemoryLedger(books)
    for name, parent in (("r", None), ("r/x", "r"), ("r2", None)):
        await ledger.open(name, Budget(candidates=1), parent=parent)
    ledger.forget("r")
    assert books.keys() == {"r2"}
    with pytest.raises(UnknownBudget):
        await ledger.account("r")
