"""A pool without engines, to inject what real ones won't do on demand: faults, and time.

It keeps to the same contract as the pool of real workers. Its tokens are the bytes of the text.
What a call comes to is decided by a function from the call alone, so that everything repeats; all
waiting is on the event loop's clock, so that a loop with a clock of its own runs it in no time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from planner.confidence import Watch
from planner.domain import Writer
from planner.errors import InvalidOption, PromptTooLong
from workers.messages import (
    Generate,
    Generated,
    GenerationEvent,
    Grade,
    Graded,
    Prompt,
    Tokens,
    Verified,
    Verify,
)

Fault: TypeAlias = Literal["failed", "lost", "hang"]
Messages: TypeAlias = tuple[tuple[str, str], ...]

_ROLES = ("system", "user", "assistant")
_CONFIDENCE = 0.5
_PLANNERS_HEAD = b"<planner>\n"


@dataclass(frozen=True, slots=True)
class Script:
    """What a call comes to: `text`, evenly over `seconds`, and then its fault, if it has one.

    A text that nothing cuts ends as if by the model's own will; "hang" ends only when cancelled.
    `confidences` are those of its tokens, and 0.5 that of any beyond them.
    """

    text: str = ""
    seconds: float = 0.0
    fault: Fault | None = None
    confidences: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a grade comes to: `step_scores` after `seconds`, unless it has a fault."""

    step_scores: tuple[float, ...] = ()
    seconds: float = 0.0
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a comparison comes to: `same` after `seconds`, unless it has a fault."""

    same: tuple[tuple[str, ...], ...] = ()
    seconds: float = 0.0
    fault: Fault | None = None


def write(call: Generate) -> Script:
    """A few steps of a line each and an answer, decided by the seed and the prompt."""
    chance = random.Random(f"{call.seed}/{call.prompt_ids}")
    steps = "".join(f"step {chance.randrange(1000)}\n" for _ in range(chance.randrange(1, 5)))
    return Script(f"{steps}#### {chance.randrange(5)}")


def judge(call: Grade) -> Verdict:
    """A score for each step, decided by what it says."""
    return Verdict(tuple(random.Random(step).random() for step in call.steps))


def compare(call: Verify) -> Ruling:
    """Answers are one that are made of the same characters: `a+b` and `b+a`."""
    groups: dict[str, list[str]] = {}
    for answer in call.answers:
        groups.setdefault("".join(sorted(answer)), []).append(answer)
    return Ruling(tuple(tuple(group) for group in groups.values() if len(group) > 1))


class FakePool:
    """One worker that does what `write`, `judge` and `compare` say.

    Without `judge` it grades nothing, without `compare` it compares nothing. With `plan` there is a
    planner beside it, which does what that says and has a chat template of its own. With `others`
    a call can be tried on another worker as well: what comes of that is told by its `rival`.
    """

    def __init__(
        self,
        write: Callable[[Generate], Script] = write,
        judge: Callable[[Grade], Verdict] | None = judge,
        compare: Callable[[Verify], Ruling] | None = compare,
        *,
        plan: Callable[[Generate], Script] | None = None,
        context: int = 4096,
        worker: str = "fake",
        others: bool = False,
    ) -> None:
        self._write = write
        self._judge = judge
        self._compare = compare
        self._plan = plan
        self._context = context
        self._others = others
        self._worker = worker
        self._planner = worker if plan is None else f"{worker}-planner"
        self._totals: dict[str, Counter[str]] = {
            name: Counter(prompt_tokens=0, cached_tokens=0, completion_tokens=0)
            for name in (self._worker, self._planner)
        }
        self._running: dict[str, _Call] = {}

    @property
    def plans(self) -> bool:
        """Whether there is a planner."""
        return self._plan is not None

    @property
    def grades(self) -> bool:
        """Whether there is a reward model."""
        return self._judge is not None

    @property
    def verifies(self) -> bool:
        """Whether answers can be compared."""
        return self._compare is not None

    async def counters(self) -> dict[str, dict[str, int]]:
        """What each worker has counted and what it runs, as the pool of real workers says it."""
        running = Counter(call.worker for call in self._running.values())
        return {
            name: {**totals, "running": running[name], "waiting": 0}
            for name, totals in self._totals.items()
        }

    async def prepare(self, messages: Messages, writer: Writer = "reasoner") -> Prompt:
        """See `workers.ports.Pool`."""
        for role, _ in messages:
            if role not in _ROLES:
                raise InvalidOption(f"The chat template knows no role {role!r}.", "messages")
        head = _PLANNERS_HEAD if self.plans and writer == "planner" else b""
        token_ids = tuple(head + _rendered(messages))
        if len(token_ids) >= self._context:
            raise PromptTooLong(f"The prompt has {len(token_ids)} tokens: too many.", "messages")
        return Prompt(token_ids, self._context - len(token_ids))

    async def encode(self, text: str, writer: Writer = "reasoner") -> tuple[int, ...]:
        """See `workers.ports.Pool`."""
        return tuple(text.encode())

    def generate(self, batch: tuple[Generate, ...]) -> AsyncIterator[GenerationEvent]:
        """See `workers.ports.Pool`."""
        return self._carry([self._writing(call) for call in batch])

    def _writing(self, call: Generate) -> _Writing:
        write, worker = self._write, self._worker
        if self._plan is not None and call.writer == "planner":
            write, worker = self._plan, self._planner
        return _Writing(call, write(call), worker, self._totals[worker])

    def grade(self, batch: tuple[Grade, ...]) -> AsyncIterator[Graded]:
        """See `workers.ports.Pool`."""
        verdict, totals = self._judge or _no_judge, self._totals[self._worker]
        return self._carry([_Reading(call, verdict(call), self._worker, totals) for call in batch])

    def verify(self, batch: tuple[Verify, ...]) -> AsyncIterator[Verified]:
        """See `workers.ports.Pool`."""
        ruling = self._compare or _no_compare
        return self._carry([_Comparing(call, ruling(call), self._worker) for call in batch])

    def elsewhere(self, call_id: str) -> bool:
        """See `workers.ports.Pool`."""
        return self._others and call_id in self._running

    async def cancel(self, ids: Collection[str]) -> None:
        """See `workers.ports.Pool`."""
        for call_id in self._running.keys() & set(ids):
            self._running[call_id].cancelled.set()

    def _carry(self, calls: Sequence[_Call]) -> AsyncIterator[Any]:
        self._running.update((call.id, call) for call in calls)
        return self._events(calls)

    async def _events(self, calls: Sequence[_Call]) -> AsyncIterator[Any]:
        events: asyncio.Queue[GenerationEvent | Graded | Verified] = asyncio.Queue()

        async def end(call: _Call) -> None:
            ended = await call.run(events.put_nowait)
            self._running.pop(call.id, None)
            events.put_nowait(ended)

        tasks = [asyncio.create_task(end(call)) for call in calls]
        try:
            unfinished = len(calls)
            while unfinished:
                event = await events.get()
                unfinished -= not isinstance(event, Tokens)
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for call in calls:
                self._running.pop(call.id, None)


class _Call(Protocol):
    """One call on the worker."""

    id: str
    worker: str
    cancelled: asyncio.Event

    async def run(self, emit: Callable[[Tokens], None]) -> Generated | Graded | Verified:
        """Do what the script says, and say how it ended."""


class _Writing:
    """One `Generate`: its script, cut to what the call asks for, and how far it has come."""

    def __init__(
        self, request: Generate, script: Script, worker: str, totals: Counter[str]
    ) -> None:
        self.id = request.id
        self.cancelled = asyncio.Event()
        self._request = request
        self._script = script
        self.worker = worker
        self._totals = totals
        self._tokens, self._shown, self._finish = _cut(script.text, request)
        # A letter that its length cut in two is not shown, but goes on.
        whole = self._finish == "length"
        self._kept = len(self._tokens) if whole else len(self._shown.encode())
        self._made = 0
        self._logprobs: list[tuple[float, ...]] = []
        self._watch = Watch(request.floor, request.confidences)

    async def run(self, emit: Callable[[Tokens], None]) -> Generated:
        """Make the tokens one after the other, until they're made or nobody wants them."""
        said = ""
        while self._made < len(self._tokens):
            if await _dropped(self.cancelled, self._script.seconds / len(self._tokens)):
                return self._ended("cancelled")
            self._count()
            text = self._text()
            if self._request.stream:
                token = self._tokens[self._made - 1]
                emit(Tokens(self.id, text.removeprefix(said), (token,)))
            said = text
            if self._watch.fallen:
                return self._ended("doubtful")
        match self._script.fault:
            case "failed":
                return self._ended("failed", "It failed, as scripted.")
            case "lost":
                error = "The worker died, as scripted."
                return Generated(self.id, "failed", worker=self.worker, error=error, lost=True)
            case "hang":
                await self.cancelled.wait()
                return self._ended("cancelled")
            case None:
                return self._ended(self._finish)

    def _count(self) -> None:
        self._made += 1
        self._totals["completion_tokens"] += 1
        if self._made == 1:
            self._totals["prompt_tokens"] += len(self._request.prompt_ids)
        if asked := self._request.top_logprobs:
            confidence = next(iter(self._script.confidences[self._made - 1 :]), _CONFIDENCE)
            self._logprobs.append((-confidence,) * asked)
            self._watch.saw(self._logprobs[-1])

    def _text(self) -> str:
        return _decoded(self._tokens[: self._made])[: len(self._shown)]

    def _ended(
        self,
        finish: Literal["stop", "step", "length", "doubtful", "cancelled", "failed"],
        error: str | None = None,
    ) -> Generated:
        return Generated(
            self.id,
            finish,
            text=self._text(),
            token_ids=tuple(self._tokens[: min(self._made, self._kept)]),
            logprob=sum(first for first, *_ in self._logprobs) if self._logprobs else None,
            top_logprobs=tuple(self._logprobs),
            prompt_tokens=len(self._request.prompt_ids) if self._made else 0,
            completion_tokens=self._made,
            worker=self.worker,
            error=error,
        )


class _Reading:
    """One `Grade` and its verdict."""

    def __init__(self, request: Grade, verdict: Verdict, worker: str, totals: Counter[str]) -> None:
        self.id = request.id
        self.cancelled = asyncio.Event()
        self._verdict = verdict
        self.worker = worker
        self._totals = totals
        answer = ("assistant", request.delimiter.join(request.steps))
        self._needs = len(_rendered((*request.messages, answer)))
        self._allowed = request.max_tokens

    async def run(self, _: Callable[[Tokens], None]) -> Graded:
        """Score it, if it can be afforded and somebody still wants it."""
        if self._needs > self._allowed:
            return Graded(self.id, "unaffordable", needs=self._needs, worker=self.worker)
        if await _dropped(self.cancelled, self._verdict.seconds):
            return Graded(self.id, "cancelled", worker=self.worker)
        match self._verdict.fault:
            case "failed":
                error = "It failed, as scripted."
                return Graded(self.id, "failed", worker=self.worker, error=error)
            case "lost":
                error = "The worker died, as scripted."
                return Graded(self.id, "failed", worker=self.worker, error=error, lost=True)
            case "hang":
                await self.cancelled.wait()
                return Graded(self.id, "cancelled", worker=self.worker)
            case None:
                self._totals["prompt_tokens"] += self._needs
                scores = self._verdict.step_scores
                return Graded(self.id, "done", scores, self._needs, worker=self.worker)


class _Comparing:
    """One `Verify` and its ruling."""

    def __init__(self, request: Verify, ruling: Ruling, worker: str) -> None:
        self.id = request.id
        self.cancelled = asyncio.Event()
        self._ruling = ruling
        self.worker = worker

    async def run(self, _: Callable[[Tokens], None]) -> Verified:
        """Rule, if somebody still wants it."""
        dropped = await _dropped(self.cancelled, self._ruling.seconds)
        if not dropped and self._ruling.fault == "hang":
            dropped = await self.cancelled.wait()
        if dropped:
            return Verified(self.id, "cancelled", worker=self.worker)
        if self._ruling.fault is not None:
            error = "It failed, as scripted."
            return Verified(self.id, "failed", worker=self.worker, error=error)
        return Verified(self.id, "done", self._ruling.same, worker=self.worker)


def _no_compare(_: Verify) -> Ruling:
    return Ruling(fault="failed")


def _no_judge(_: Grade) -> Verdict:
    return Verdict(fault="failed")


async def _dropped(cancelled: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until the call is cancelled; says whether it is."""
    if not seconds:
        await asyncio.sleep(0)
        return cancelled.is_set()
    try:
        async with asyncio.timeout(seconds):
            return await cancelled.wait()
    except TimeoutError:
        return False


def _rendered(messages: Messages) -> bytes:
    return "".join(f"<{role}>{content}\n" for role, content in messages).encode()


def _decoded(tokens: bytes) -> str:
    """What the bytes say so far; a letter that isn't whole yet says nothing."""
    return tokens.decode(errors="ignore")


def _cut(text: str, call: Generate) -> tuple[bytes, str, Literal["stop", "step", "length"]]:
    """The tokens that the call makes of `text`, what of them is shown, and why they end there."""
    tokens, shown = text.encode(), text
    finish: Literal["stop", "step", "length"] = "stop"
    ends = [(text.find(stop) + len(stop), stop) for stop in {*call.stop, *call.delimiters}]
    if found := [(end, stop) for end, stop in ends if stop in text]:
        end, stop = min(found)
        is_step = stop in call.delimiters
        tokens = text[:end].encode()
        shown = text[:end] if is_step else text[: end - len(stop)]
        finish = "step" if is_step else "stop"
    if len(tokens) > call.max_tokens:
        tokens = tokens[: call.max_tokens]
        return tokens, _decoded(tokens), "length"
    return tokens, shown, finish
