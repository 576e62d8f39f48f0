"""The errors that longthink raises on purpose. Each message tells its reader what to do."""

from __future__ import annotations


class LongthinkError(Exception):
    """Whatever longthink raises on purpose."""


class InvalidOption(LongthinkError):
    """An option of the request that can't be honoured. `param` names it, in dotted form."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLong(InvalidOption):
    """The prompt leaves no room for an answer in the model's context."""


class LedgerUnavailable(LongthinkError):
    """Redis can't be reached, so nothing can be metered and nothing new may start."""


class UnknownBudget(LongthinkError):
    """The budget was never opened, or its time to live has passed."""


class WorkersUnavailable(LongthinkError):
    """No worker can take the work at present."""
