"""One engine that batches continuously, advanced from one change of its batch to the next.

Between two changes all steps of a batch follow one law (see `EngineModel`), so that the time at
which any of them ends is known without going through them: what a simulation costs goes by the
calls that begin and end, and not by their tokens. What always holds:

- calls begin and end between two steps, as in vLLM: one that comes during a step waits for its end;
- at most `max_num_seqs` run, and their contexts together fit into the KV cache: where they have
  outgrown it, the last to have begun goes back to the head of the queue, and is read anew;
- each call ends exactly once, with all its tokens, or with those that it had when it was cancelled.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from itertools import count
from math import sqrt

from services.simulation.cache import PrefixCache
from services.simulation.cores import Cores
from services.simulation.model import EngineModel
from services.simulation.watch import Watch

_SLACK = 1e-9
"""What rounding may take from a step that is over, as a part of it."""


class Job:
    """One call: it reads `prompt`, then writes `length` tokens, one a step."""

    __slots__ = (
        *("prompt", "length", "priority", "ended", "made", "cached", "cancelled", "refused"),
        *("began", "serial", "before", "running", "queued"),
    )

    def __init__(
        self,
        prompt: Sequence[int],
        length: int,
        ended: Callable[[Job], None],
        priority: int = 0,
    ) -> None:
        """`ended` is called once, when it has ended. A length below 1 counts as 1."""
        self.prompt = prompt
        self.length = max(1, length)
        self.priority = priority
        self.ended = ended
        self.made = 0
        self.cached = 0
        self.cancelled = False
        self.refused = False
        self.began = 0
        self.serial = 0
        self.before = 0
        self.running = False
        self.queued = False


class Engine:
    """One engine on an event loop's clock."""

    def __init__(
        self, model: EngineModel, cores: Cores | None = None, watch: Watch | None = None
    ) -> None:
        self._model = model
        self._watch = watch or Watch()
        self._loop = asyncio.get_running_loop()
        self._cores = cores or Cores(None)
        self._cache = PrefixCache(model.block_size, model.kv_tokens)
        self._serials = count()
        self._waiting: list[tuple[int, int, Job]] = []
        self._running: dict[Job, None] = {}
        """In the order in which they began."""
        self._ends: list[tuple[int, int, Job]] = []
        self._step = 0
        """The steps that were over when the batch last changed."""
        self._extra = 0.0
        """What the first step since then takes longer."""
        self._kv = 0
        """The tokens of all contexts at that time."""
        self._work = 0.0
        """What was worked on the steps since then until `_since`, in seconds at full speed."""
        self._since = 0.0
        self._speed = 1.0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._next = 0
        """How many steps after the last change the next one is expected, 0 where none is."""
        self._dropped = 0
        self._queued = 0
        self.busy_seconds = 0.0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return self._queued

    def submit(self, job: Job) -> None:
        """Take a call in. It begins with the next step that has room for it.

        Where too many are there already it is refused: it ends at once, with nothing made.
        """
        if len(self._running) + self._queued >= self._model.max_queued_requests:
            job.refused = True
            job.ended(job)
            return
        self._queue(job, next(self._serials))
        if not self._running:
            if self._timer is None:
                # What comes in the same instant begins with the same step.
                self._timer = self._loop.call_soon(self._change)
        elif self._has_room():
            self._look_after_this_step()

    def cancel(self, job: Job) -> None:
        """End a call with the step that it is in, or now if it hasn't begun."""
        if job.cancelled:
            return
        job.cancelled = True
        if job.running:
            self._dropped += 1
            self._look_after_this_step()
        elif job.queued:
            # Its place in the queue is passed over when its turn comes.
            job.queued = False
            self._queued -= 1
            job.ended(job)

    def respeed(self, speed: float) -> None:
        """See `cores.Runner`."""
        self._advance()
        self._speed = speed
        if self._next:
            self._expect(self._next)

    # The law of the steps since the batch last changed

    def _first(self) -> float:
        """What the next step takes, without what is extra."""
        model = self._model
        return (
            model.step_seconds
            + len(self._running) * model.sequence_seconds
            + self._kv * model.kv_token_seconds
        )

    def _growth(self) -> float:
        """What each step takes longer than the one before it, as all contexts have grown."""
        return len(self._running) * self._model.kv_token_seconds

    def _seconds(self, steps: int) -> float:
        """What so many steps take at full speed."""
        return self._extra + steps * self._first() + self._growth() * steps * (steps - 1) / 2

    def _over(self) -> int:
        """The steps that are over by now."""
        first, growth = self._first(), self._growth()
        rest = self._work - self._extra + _SLACK * first
        if rest < first:
            return 0
        if growth == 0:
            return int(rest / first)
        # growth/2 k² + (first - growth/2) k = rest
        linear = first - growth / 2
        return int((sqrt(linear * linear + 2 * growth * rest) - linear) / growth + _SLACK)

    # Changes

    def _advance(self) -> None:
        now = self._loop.time()
        passed = now - self._since
        if self._running:
            self._work += passed * self._speed
            self.busy_seconds += passed
        self._since = now

    def _look_after_this_step(self) -> None:
        """Expect a change with the end of the present step, if none is expected before."""
        if self._next == 1:
            return
        self._advance()
        steps = self._over() + 1
        if not self._next or steps < self._next:
            self._expect(steps)

    def _expect(self, steps: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = steps
        left = max(0.0, self._seconds(steps) - self._work)
        self._timer = self._loop.call_at(self._since + left / self._speed, self._change)

    def _change(self) -> None:
        """A step is over after which something ends or may begin."""
        with self._watch.simulating():
            self._changed()

    def _changed(self) -> None:
        self._timer = None
        self._advance()
        self._step += self._next
        self._kv += self._next * len(self._running)
        self._next, self._work, self._extra = 0, 0.0, 0.0
        ended = self._finished()
        self._preempt()
        self._admit()
        if self._running:
            self._cores.take(self, self._model.cores)
            self._speed = self._cores.speed
            self._plan()
        else:
            self._cores.leave(self)
        for job in ended:
            job.ended(job)

    def _finished(self) -> list[Job]:
        """Take those out that have come to their ends, or that nobody wants any more."""
        ended = []
        while self._ends and self._ends[0][0] <= self._step:
            _, serial, job = heapq.heappop(self._ends)
            if job.running and job.serial == serial:
                ended.append(job)
                self._take_out(job)
        if self._dropped:
            dropped = [job for job in self._running if job.cancelled]
            ended += dropped
            for job in dropped:
                self._take_out(job)
            self._dropped = 0
        return ended

    def _take_out(self, job: Job) -> None:
        job.made = job.before + self._step - job.began
        job.running = False
        self._kv -= len(job.prompt) + job.made
        del self._running[job]

    def _preempt(self) -> None:
        """Send back the last to have begun while the contexts don't fit; one is always let run."""
        while self._kv > self._model.kv_tokens and len(self._running) > 1:
            job = next(reversed(self._running))
            self._take_out(job)
            job.before = job.made
            self._queue(job, -next(self._serials))  # before all others of its priority

    def _queue(self, job: Job, serial: int) -> None:
        job.serial, job.queued = serial, True
        self._queued += 1
        heapq.heappush(self._waiting, (job.priority, serial, job))

    def _head(self) -> Job | None:
        """The first of those that wait."""
        while self._waiting:
            job = self._waiting[0][2]
            if job.queued:
                return job
            heapq.heappop(self._waiting)
        return None

    def _fits(self, job: Job) -> bool:
        """Whether the KV cache has room for it and for what the others grow by in the next step."""
        context = len(job.prompt) + job.before + len(self._running)
        return not self._running or self._kv + context <= self._model.kv_tokens

    def _has_room(self) -> bool:
        return len(self._running) < self._model.max_num_seqs

    def _admit(self) -> None:
        """Begin with those that wait, as far as there is room, and as one step reads prompts."""
        model, read, begun = self._model, 0, 0
        while (job := self._head()) is not None and self._has_room() and self._fits(job):
            context = len(job.prompt) + job.before
            if begun and read + context > model.batched_tokens:
                break
            heapq.heappop(self._waiting)
            job.queued = False
            self._queued -= 1
            cached = self._cache.read(job.prompt)
            if not job.before:
                job.cached = cached
            read += context - cached
            begun += 1
            job.began, job.running = self._step, True
            self._running[job] = None
            self._kv += context
            end = self._step + job.length - job.before
            heapq.heappush(self._ends, (end, job.serial, job))
        self._extra = begun * model.call_seconds + read * model.prompt_token_seconds

    def _plan(self) -> None:
        """Expect the next change."""
        while self._ends and not self._is_current(self._ends[0]):
            heapq.heappop(self._ends)
        steps = self._ends[0][0] - self._step
        free = self._model.kv_tokens - self._kv
        if len(self._running) > 1:
            # The step after which the contexts don't fit any more.
            steps = min(steps, max(1, free // len(self._running) + 1))
        job = self._head()
        if job is not None and self._has_room() and self._fits(job):
            steps = 1  # it waits for this step to have read the prompts of others
        self._expect(steps)

    def _is_current(self, entry: tuple[int, int, Job]) -> bool:
        _, serial, job = entry
        return job.running and job.serial == serial
