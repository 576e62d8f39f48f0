"""What the driver asks of the workers. The pool of real ones and the fake both keep to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Protocol

from workers.messages import Generate, GenerationEvent, Grade, Graded, Prompt, Verified, Verify


class Pool(Protocol):
    """All workers of every kind, as one."""

    @property
    def grades(self) -> bool:
        """Whether there is a reward model."""

    @property
    def verifies(self) -> bool:
        """Whether answers can be compared."""

    async def prepare(self, messages: tuple[tuple[str, str], ...]) -> Prompt:
        """The conversation, as (role, content) pairs, in the model's own tokens.

        Raises PromptTooLong when it leaves no room for an answer, InvalidOption when the model's
        chat template refuses it, WorkersUnavailable when no generator answers.
        """

    async def encode(self, text: str) -> tuple[int, ...]:
        """A piece of text in the model's own tokens, with nothing around it.

        Raises WorkersUnavailable when no generator answers.
        """

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """Run the batch; every call ends in exactly one `Generated`, in the order they finish.

        A worker that dies yields `Generated(finish="failed", lost=True)` for what it had: nothing
        is raised for a single failed call. Closing the iterator cancels what is still running.
        """

    async def cancel(self, ids: Collection[str]) -> None:
        """End these calls now. Each still yields its result, with what it came to until then.

        Ids that are unknown or have ended already are ignored.
        """

    def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
        """Score the batch; every call ends in exactly one `Graded`."""

    def verify(self, batch: tuple[Verify, ...]) -> AsyncIterator[Verified]:
        """Compare answers; every call ends in exactly one `Verified`, in the order they finish.

        Closing the iterator ends what is still being compared.
        """
