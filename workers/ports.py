"""What the driver asks of the workers. The pool of real ones and the fake both keep to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Protocol

from planner.domain import Writer
from workers.messages import Generate, GenerationEvent, Grade, Graded, Prompt, Verified, Verify


class Pool(Protocol):
    """All workers of every kind, as one."""

    @property
    def plans(self) -> bool:
        """Whether there is a planner of its own; else the reasoner writes the plans."""

    @property
    def grades(self) -> bool:
        """Whether there is a reward model."""

    @property
    def verifies(self) -> bool:
        """Whether answers can be compared."""

    async def prepare(
        self, messages: tuple[tuple[str, str], ...], writer: Writer = "reasoner"
    ) -> Prompt:
        """The conversation, as (role, content) pairs, in the tokens of the model that is to reply.

        Raises PromptTooLong when it leaves no room for an answer, InvalidOption when the model's
        chat template refuses it, WorkersUnavailable when no such worker answers.
        """

    async def encode(self, text: str, writer: Writer = "reasoner") -> tuple[int, ...]:
        """A piece of text in the tokens of the model that is to go on, with nothing around it.

        Raises WorkersUnavailable when no such worker answers.
        """

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """Run the batch; every call ends in exactly one `Generated`, in the order they finish.

        Each is written by the model that it names, a planner's by the reasoner where there is no
        planner. A worker that dies yields `Generated(finish="failed", lost=True)` for what it had:
        nothing is raised for a single failed call. Closing the iterator cancels what still runs.
        """

    def elsewhere(self, call_id: str) -> bool:
        """Whether there is another worker than the one that has this call, to try it on."""

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
