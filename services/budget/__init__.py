"""Compute budgets in Redis that nothing overspends: `RedisLedger`, and a client fit for it."""

from services.budget.client import connect
from services.budget.errors import BudgetConflict, BudgetRefused
from services.budget.ledger import RedisLedger

__all__ = ["BudgetConflict", "BudgetRefused", "RedisLedger", "connect"]
