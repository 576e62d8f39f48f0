"""One call on its way to a simulated engine, in it, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from services.simulation.engine import Engine, Job
from services.simulation.watch import Watch
from services.simulation.writing import Writer
from workers.messages import Generate, Generated, Grade, Graded, Tokens

_SURE = -0.5
"""The log-probability of every token: what the real ones were isn't recorded."""


class Call(ABC):
    """One call. What always holds: it is told of exactly once that it has ended."""

    def __init__(
        self,
        call_id: str,
        worker: str,
        engine: Engine,
        counted: Counter[str],
        writer: Writer,
        tell: Callable[[Any], None],
        watch: Watch,
    ) -> None:
        self.id = call_id
        self.worker = worker
        self._engine = engine
        self._counted = counted
        self._writer = writer
        self._tell = tell
        self._watch = watch
        self._job: Job | None = None
        self._over = False

    def submit(self) -> None:
        """It has come to its engine."""
        if not self._over:
            with self._watch.simulating():
                self._job = self._begin()
                if self._job is not None:
                    self._engine.submit(self._job)

    def drop(self) -> None:
        """Nobody wants it any more."""
        if self._over:
            return
        with self._watch.simulating():
            if self._job is not None:
                self._engine.cancel(self._job)
            else:
                self._end(self._unheard())

    def _ended(self, job: Job) -> None:
        if job.made:
            self._counted["calls"] += 1
            self._counted["prompt_tokens"] += len(job.prompt)
            self._counted["cached_tokens"] += job.cached
        self._end(self._made(job))

    def _end(self, event: Generated | Graded) -> None:
        self._over = True
        self._tell(event)

    @abstractmethod
    def _begin(self) -> Job | None:
        """What the engine is to do, or None where it ended before that."""

    @abstractmethod
    def _unheard(self) -> Generated | Graded:
        """Its end where it was cancelled before it came to the engine."""

    @abstractmethod
    def _made(self, job: Job) -> Generated | Graded:
        """Its end, by what the engine made of it."""


class Writing(Call):
    """A call that writes."""

    def __init__(self, request: Generate, *place: Any) -> None:
        super().__init__(request.id, *place)
        self._request = request

    def _begin(self) -> Job:
        request = self._request
        self._written = self._write(request.max_tokens)
        length = len(self._written.token_ids)
        return Job(request.prompt_ids, length, self._ended, request.priority)

    def _write(self, most: int) -> Any:
        request = self._request
        return self._writer.write(
            request.prompt_ids, request.seed, most, step=bool(request.delimiters)
        )

    def _unheard(self) -> Generated:
        return Generated(self.id, "cancelled", worker=self.worker)

    def _made(self, job: Job) -> Generated:
        if job.refused:
            error = "The engine has more requests than it may queue."
            return Generated(self.id, "failed", worker=self.worker, error=error, lost=True)
        if not job.made:
            return self._unheard()
        self._counted["completion_tokens"] += job.made
        written = self._written
        whole = job.made == len(written.token_ids)
        if not whole:
            written = self._write(job.made)
        asked = self._request.top_logprobs
        ended = Generated(
            self.id,
            written.finish if whole else "cancelled",
            text=written.text,
            token_ids=written.token_ids,
            logprob=_SURE * job.made if asked else None,
            top_logprobs=((_SURE,) * asked,) * job.made if asked else (),
            prompt_tokens=len(job.prompt),
            cached_tokens=job.cached,
            completion_tokens=job.made,
            worker=self.worker,
        )
        if self._request.stream:
            self._tell(Tokens(self.id, ended.text, ended.token_ids))
        return ended


class Reading(Call):
    """A call that grades."""

    def __init__(self, request: Grade, *place: Any) -> None:
        super().__init__(request.id, *place)
        self._request = request

    def _begin(self) -> Job | None:
        request = self._request
        prompt = self._writer.prompt(request.messages)
        tokens = self._writer.tokens(prompt, request.steps)
        # Its template stands around the conversation, and a step tag after each step.
        read = (*prompt, *tokens, *range(len(request.steps)))
        if len(read) > request.max_tokens:
            self._end(Graded(self.id, "unaffordable", needs=len(read), worker=self.worker))
            return None
        self._scores: Sequence[float] = self._writer.scores(prompt, request.steps)
        return Job(read, 1, self._ended, request.priority)

    def _unheard(self) -> Graded:
        return Graded(self.id, "cancelled", worker=self.worker)

    def _made(self, job: Job) -> Graded:
        if job.refused:
            error = "The engine has more requests than it may queue."
            return Graded(self.id, "failed", worker=self.worker, error=error, lost=True)
        if not job.made:
            return self._unheard()
        return Graded(
            self.id,
            "done",
            tuple(self._scores),
            reward_tokens=len(job.prompt),
            cached_tokens=job.cached,
            worker=self.worker,
        )
