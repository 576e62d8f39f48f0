"""Where a task begins: the prompt it asks, the tokens it continues, and the room that leaves it.

A task that goes on from what is there begins at once; one with messages or text of its own needs a
worker to put these into tokens. What always holds: a flight has room for one token at least, and
a task that can't have a flight gets the reason for that, never an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.domain import Expand, Message, Query, Writer
from planner.errors import InvalidOption, WorkersUnavailable
from services.flights import Flight
from workers.messages import Prompt
from workers.ports import Pool

_KEPT = 64
"""The prompts kept of what tasks asked of their own."""


@dataclass(frozen=True, slots=True)
class LinedUp:
    """What came of lining up a task: its flight, or the reason why it can have none."""

    task: Expand
    made: Flight | str


class LineUp:
    """Makes flights of the tasks of one query, whose own prompt is `prompt`."""

    def __init__(self, query: Query, prompt: Prompt, pool: Pool) -> None:
        self._query = query
        self._prompt = prompt
        self._pool = pool
        self._prompts: dict[tuple[Writer, tuple[Message, ...]], Prompt] = {}
        """Of the messages that tasks asked of late: a step's are asked by all of its samples."""

    def at_once(self, task: Expand) -> LinedUp | None:
        """The task lined up, or None where `ask` has to ask a worker for it."""
        prompt = self._known(task)
        if prompt is None or task.append:
            return None
        return self._begin(task, prompt, task.parent.token_ids if task.parent else ())

    async def ask_all(self, tasks: Sequence[Expand]) -> list[LinedUp]:
        """The tasks lined up, one after another: what one has made the next ones needn't."""
        return [self.at_once(task) or await self.ask(task) for task in tasks]

    async def ask(self, task: Expand) -> LinedUp:
        """The task lined up, by what a worker makes of its messages and its text."""
        try:
            prompt = await self._prompt_of(task)
            return self._begin(task, prompt, await self._before(task, prompt))
        except (InvalidOption, WorkersUnavailable) as error:
            return LinedUp(task, str(error))

    def _known(self, task: Expand) -> Prompt | None:
        """The prompt of a task, if it was made already, in the tokens of who is to write it."""
        if task.messages is None and task.writer == "reasoner":
            return self._prompt
        return self._prompts.get((task.writer, task.messages or self._query.messages))

    async def _prompt_of(self, task: Expand) -> Prompt:
        known = self._known(task)
        if known is not None:
            return known
        asked = task.messages or self._query.messages
        said = tuple((message.role, message.content) for message in asked)
        prompt = await self._pool.prepare(said, task.writer)
        if len(self._prompts) >= _KEPT:
            del self._prompts[next(iter(self._prompts))]
        self._prompts[task.writer, asked] = prompt
        return prompt

    async def _before(self, task: Expand, prompt: Prompt) -> tuple[int, ...]:
        """The parent's tokens, opened again if the model had ended it, and what is put after."""
        before = task.parent.token_ids if task.parent else ()
        if not task.append:
            return before
        while before and before[-1] in prompt.end_ids:
            before = before[:-1]
        return (*before, *await self._pool.encode(task.append, task.writer))

    def _begin(self, task: Expand, prompt: Prompt, before: tuple[int, ...]) -> LinedUp:
        most = self._query.sampling.max_tokens
        in_context = prompt.context_left - len(before)
        # What replies to messages of its own, and says how long that may be, is no candidate.
        aside = task.messages is not None and task.max_tokens is not None
        room = in_context if aside else min(in_context, most - len(before))
        if room < 1:
            used = "the model's context" if in_context < 1 else f"max_tokens ({most})"
            return LinedUp(task, f"No room is left for it in {used}.")
        return LinedUp(task, Flight(task, prompt, min(room, task.max_tokens or most), before))
