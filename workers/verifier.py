"""The verifier: which of the distinct answers to a question are one.

Formulas are compared by math-verify, code by what it gives for the request's inputs. Owns the
processes for both. What always holds: each call ends in exactly one `Verified`, whatever hangs;
what can't be compared counts as different, and a note says so; each new answer is compared with
one of each group that is there, and a program is run once on each input, however many there are;
nothing is left running when a stream or the verifier is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from hashlib import blake2b

from pebble import ProcessExpired

from planner.answers import number_form
from planner.domain import Code
from planner.equivalence import may_be_same
from planner.forms import json_value
from workers.messages import Verified, Verify
from workers.verifying.formulas import FormulaPool
from workers.verifying.sandbox import Sandbox

WORKER = "verifier"

_PROGRAMS = 4096
"""Programs of which is remembered what they gave, a few hundred bytes each."""

_FAULT_HOLDS_SECONDS = 60.0


class Verifier:
    """Compares answers of every kind. `close` it at the end."""

    def __init__(
        self,
        formulas: FormulaPool | None = None,
        sandbox: Sandbox | None = None,
        *,
        patience_seconds: float = 20.0,
    ) -> None:
        """`patience_seconds` is how long the answers of one call may take together."""
        self._patience = patience_seconds
        self._formulas = formulas or FormulaPool()
        self._sandbox = sandbox or Sandbox()
        self._running: dict[str, asyncio.Task[Verified]] = {}
        self._programs: OrderedDict[bytes, _Ran] = OrderedDict()
        self._programs_side_by_side = asyncio.Semaphore(self._sandbox.runs)
        self._refusal: _Ran | None = None

    def verify(self, batch: tuple[Verify, ...]) -> AsyncIterator[Verified]:
        """See `workers.ports.Pool`. A call can be cancelled from now on, read or not."""
        tasks = {call.id: asyncio.create_task(self._compared(call)) for call in batch}
        self._running.update(tasks)
        return self._results(tasks)

    async def cancel(self, ids: Collection[str]) -> None:
        """End these calls now; each still yields its result. Unknown ids are ignored."""
        for call_id in self._running.keys() & set(ids):
            self._running[call_id].cancel()

    async def close(self) -> None:
        """End every call and every process. Idempotent."""
        calls = list(self._running.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.to_thread(self._formulas.close)

    async def _results(self, tasks: dict[str, asyncio.Task[Verified]]) -> AsyncIterator[Verified]:
        names = {task: call_id for call_id, task in tasks.items()}
        waiting = set(names)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
                for task in done:
                    self._running.pop(names[task], None)
                    yield _cancelled(names[task]) if task.cancelled() else task.result()
        finally:
            for task, call_id in names.items():
                self._running.pop(call_id, None)
                task.cancel()
            await asyncio.gather(*names, return_exceptions=True)

    async def _compared(self, call: Verify) -> Verified:
        try:
            if call.code is not None:
                return await self._by_running(call, call.code)
            return await self._by_formula(call)
        except Exception as broken:  # noqa: BLE001 whatever it was, the caller must hear the end
            error = f"Answers could not be compared. {type(broken).__name__}: {broken}"
            return Verified(call.id, "failed", worker=WORKER, error=error)

    # Formulas

    async def _by_formula(self, call: Verify) -> Verified:
        groups = [[answer] for answer in call.answers[: call.apart]]
        notes: list[str] = []
        deadline = asyncio.get_running_loop().time() + self._patience
        for answer in call.answers[call.apart :]:
            firsts = [group[0] for group in groups]
            try:
                async with asyncio.timeout_at(deadline):
                    equal = await asyncio.gather(*(self._equal(answer, it, notes) for it in firsts))
            except TimeoutError:
                late = len(call.answers) - call.answers.index(answer)
                notes.append(f"There was no time to compare the last {late} answers.")
                break
            if True in equal:
                groups[equal.index(True)].append(answer)
            else:
                groups.append([answer])
        return _done(call, groups, notes)

    async def _equal(self, one: str, other: str, notes: list[str]) -> bool:
        if not may_be_same(one, other):
            return False
        try:
            return await self._formulas.equal(one, other)
        except TimeoutError:
            why = "took too long to compare"
        except ProcessExpired:
            why = "could not be compared"
        notes.append(f"{one} and {other} {why}, and count as different.")
        return False

    # Code

    async def _by_running(self, call: Verify, code: Code) -> Verified:
        if not code.inputs:
            note = "Without inputs to run them on, programs count as different."
            return _done(call, [], [note])
        runs = {program: asyncio.create_task(self._ran(program, code)) for program in call.answers}
        try:
            _, late = await asyncio.wait(runs.values(), timeout=self._patience)
        finally:
            for task in runs.values():
                task.cancel()
            await asyncio.gather(*runs.values(), return_exceptions=True)
        groups: dict[bytes, list[str]] = {}
        notes: dict[str, None] = {}
        for program, task in runs.items():
            if task in late:
                continue
            ran = task.result()
            if ran.refused:
                return Verified(call.id, "failed", worker=WORKER, error=ran.fault)
            if ran.fault is not None:
                notes[f"A program gives no output. {ran.fault}"] = None
            else:
                groups.setdefault(ran.outputs, []).append(program)
        if late:
            late_note = "There was no time to run all programs: those left count as different."
            notes[late_note] = None
        return _done(call, list(groups.values()), list(notes))

    async def _ran(self, program: str, code: Code) -> _Ran:
        """What `program` gives for all inputs: known for a while, since it's asked again soon."""
        key = blake2b(repr((program, code)).encode(errors="surrogatepass"), digest_size=16).digest()
        if (known := self._known(key)) is not None:
            return known
        # One after the other, not an input of each in turn: what has ended is known next time.
        async with self._programs_side_by_side:
            if (known := self._known(key)) is not None:
                return known
            ran = await self._run(program, code)
        if ran.refused:
            self._refusal = ran
        else:
            self._programs[key] = ran
            self._programs.move_to_end(key)
            while len(self._programs) > _PROGRAMS:
                self._programs.popitem(last=False)
        return ran

    def _known(self, key: bytes) -> _Ran | None:
        """What is known already, or that nothing can be run here."""
        for known in (self._programs.get(key), self._refusal):
            if known is not None and known.holds():
                return known
        return None

    async def _run(self, program: str, code: Code) -> _Ran:
        """Run `program` on each input, up to the first that gives nothing."""
        outputs = blake2b(digest_size=16)
        for given in code.inputs:
            run = await self._sandbox.run(program, given, code.entry)
            if run.fault is not None:
                return _Ran(fault=run.fault, refused=run.refused)
            output = _comparable(run.output or "", code.entry).encode(errors="surrogatepass")
            outputs.update(f"{len(output)}:".encode() + output)
        return _Ran(outputs.digest())


@dataclass(frozen=True, slots=True)
class _Ran:
    """How the runs of one program ended: with outputs, of which this is a digest, or a fault.

    A fault may be the machine's own, that was too busy at the time: it holds for a minute.
    """

    outputs: bytes = b""
    fault: str | None = None
    refused: bool = False
    at: float = field(default_factory=time.monotonic)

    def holds(self) -> bool:
        """Whether another run would end likewise, as far as can be told."""
        return self.fault is None or time.monotonic() - self.at < _FAULT_HOLDS_SECONDS


def _comparable(output: str, entry: str | None) -> str:
    """An output as it is compared: a function's by its value, a program's without end spaces."""
    if entry is not None:
        return json_value(output, number_form, scalars=True) or output
    return "\n".join(line.rstrip() for line in output.rstrip().splitlines())


def _done(call: Verify, groups: list[list[str]], notes: list[str]) -> Verified:
    same = tuple(tuple(group) for group in groups if len(group) > 1)
    return Verified(call.id, "done", same, tuple(notes), WORKER)


def _cancelled(call_id: str) -> Verified:
    return Verified(call_id, "cancelled", worker=WORKER)
