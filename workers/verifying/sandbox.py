"""Runs an answer's code on one input where it can do no harm, and says in words how that ended.

What always holds, where the kernel permits it: the code has no network, no file but Python's own
library and an empty folder, no process of the machine in sight; its time, memory, processes, files
and output are bounded; and nothing of it is left when its run has ended. Where the kernel doesn't
permit that, nothing runs, unless the sandbox was made with `confined=False`: then what is left are
the bounds, no further process and the filter of system calls (so no network), but files are open
to it as they are to this process's user (to root's, as to nobody's). That is for machines that
hold nothing else.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from workers.verifying.jail import Job, Report

_ROOT = Path(__file__).resolve().parents[2]
_JAIL = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from workers.verifying.jail import main"
_GRACE_SECONDS = 10.0
"""How much longer than the code the jail may take, on a machine where all cores are busy."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may take. Memory and processor time are each process's own."""

    seconds: float = 5.0
    cpu_seconds: int = 3
    memory_bytes: int = 256 << 20
    processes: int = 8
    file_bytes: int = 4 << 20
    output_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended: with an `output`, or with a `fault`, a sentence or more.

    `refused` says that nothing was run, since the machine doesn't permit what confines the code.
    """

    output: str | None = None
    fault: str | None = None
    refused: bool = False


class Sandbox:
    """Runs code, at most `runs` side by side. See this module for `confined`."""

    def __init__(self, limits: Limits = Limits(), *, runs: int = 2, confined: bool = True) -> None:
        self.runs = runs
        self._limits = limits
        self._turns = asyncio.Semaphore(runs)
        self._confined = confined

    async def run(self, program: str, stdin: str, entry: str | None = None) -> Run:
        """Run a Python program with `stdin`, or call its function `entry`.

        The function's arguments are the JSON array in `stdin`, and the output is its result as
        JSON.
        """
        limits = self._limits
        job = Job(
            program=program,
            entry=entry,
            stdin=stdin,
            seconds=limits.seconds,
            cpu_seconds=limits.cpu_seconds,
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            file_bytes=limits.file_bytes,
            output_bytes=limits.output_bytes,
            confined=self._confined,
        )
        async with self._turns:
            report = await self._jailed(job)
        if report["ended"] == "refused":
            fault = (
                f"Code can't be run safely on this machine ({report['errors']}). It takes Linux "
                "5.12 or later and the right to make namespaces, which containers often lack."
            )
            return Run(fault=fault, refused=True)
        if report["ended"] == "exit" and report["status"] == 0:
            return Run(output=report["stdout"])
        return Run(fault=self._words(report))

    async def _jailed(self, job: Job) -> Report:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-B", "-c", f"{_JAIL}; main()"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._limits.seconds + _GRACE_SECONDS):
                written, errors = await process.communicate(json.dumps(job).encode())
        except TimeoutError:
            return Report(ended="time", status=0, stdout="", errors="")
        finally:
            if process.returncode is None:
                # The rest of the jail dies with it.
                process.kill()
                await process.wait()
        if not written:
            # Ended from outside, or by a fault of its own: nothing is known of what it ran.
            return Report(ended="refused", status=0, stdout="", errors=_last(errors.decode()))
        report: Report = json.loads(written)
        return report

    def _words(self, report: Report) -> str:
        limits = self._limits
        match report["ended"], report["status"]:
            case "time", _:
                return f"It took longer than {limits.seconds:g} seconds."
            case "output", _:
                return f"It wrote more than {limits.output_bytes} bytes."
            case "signal", (signal.SIGXCPU | signal.SIGKILL):
                return f"It used more than {limits.cpu_seconds} seconds of processor time."
            case "signal", number:
                return f"It was ended by {signal.strsignal(number) or number}."
            case _, status:
                return f"It ended with an error: {_last(report['errors']) or f'status {status}'}"


def _last(errors: str) -> str:
    """The last line that says anything: where several processes write, that may be further up."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    saying = [line for line in lines if not line.startswith(("Traceback", "File "))]
    return (saying or lines or [""])[-1]
