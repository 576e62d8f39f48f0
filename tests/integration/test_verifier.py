"""The verifier against what hangs and what is hostile: real processes, really killed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from planner.domain import Code
from tests.contract.verify_contract import Comparing, VerifyContract, question, verified
from workers.messages import Verified, Verify
from workers.verifier import Verifier
from workers.verifying.formulas import FormulaPool
from workers.verifying.sandbox import Limits, Run, Sandbox

HANGS = ("9^{9^{9^{9}}}", r"\sqrt{2}^{9^{9^{9}}}")
"""Formulas of which sympy would make a number before the end of the world."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier() -> AsyncIterator[Verifier]:
    """One verifier for all, since its processes take seconds to start."""
    made = Verifier(FormulaPool(1, seconds=5.0), Sandbox(Limits(seconds=2.0, cpu_seconds=1)))
    # The first comparison waits for the processes, which a busy machine starts slowly.
    await answered(made, question("1+x", "x+1"))
    yield made
    await made.close()


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(Limits(seconds=2.0, cpu_seconds=1))


async def answered(verifier: Verifier, call: Verify) -> Verified:
    return (await verified(verifier.verify((call,))))[call.id]


class TestVerifier(VerifyContract):
    """The contract, over real processes."""

    @pytest.fixture
    def comparing(self, verifier: Verifier) -> Comparing:
        return verifier


async def test_each_group_is_compared_by_one_of_it(verifier: Verifier) -> None:
    """Answers that are one come as one group; what is known to differ isn't compared again."""
    told = await answered(
        verifier, question("x+1", "x^2", "1+x", r"x \cdot x", "paris", "pairs", apart=2)
    )
    assert told.same == (("x+1", "1+x"), ("x^2", r"x \cdot x"))


async def test_what_hangs_is_killed_and_counts_as_different(verifier: Verifier) -> None:
    """A comparison that hangs ends at its limit, is noted, and leaves a pool that goes on."""
    began = time.monotonic()
    told = await answered(verifier, question(*HANGS))
    assert time.monotonic() - began < 20
    assert (told.finish, told.same) == ("done", ())
    assert "too long" in told.notes[0]
    again = question("1+x", "x+1")
    assert (await answered(verifier, again)).finish == "done"


async def test_nothing_is_left_of_a_closed_verifier() -> None:
    """Closing it ends its processes, also the one that hangs, and whoever waits hears of it."""
    before = set(psutil.Process().children(recursive=True))
    verifier = Verifier(FormulaPool(1, seconds=60.0))
    call = question(*HANGS)
    waiting = asyncio.create_task(answered(verifier, call))
    while not (started := set(psutil.Process().children(recursive=True)) - before):
        await asyncio.sleep(0.02)
    await verifier.close()
    assert (await waiting).finish == "cancelled"
    gone, alive = psutil.wait_procs(
        [child for child in started if "resource_tracker" not in " ".join(_command(child))], 5
    )
    assert gone
    assert not alive


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.NoSuchProcess:
        return []
    return command


async def test_programs_are_one_where_their_output_is(verifier: Verifier) -> None:
    """Programs are compared by what they print for each input, and faults are told in words."""
    doubles = ("print(int(input()) * 2)", "n = int(input())\nprint(n + n, ' ')")
    others = ("print(4)", "raise ValueError('never')")
    call = Verify("programs", doubles + others, code=Code(("2", "5")))
    told = await answered(verifier, call)
    assert told.same == (doubles,)
    assert told.notes == ("A program gives no output. It ended with an error: ValueError: never",)


async def test_functions_are_one_where_their_values_are(verifier: Verifier) -> None:
    """Functions are called by name, and what they print isn't their value."""
    codes = (
        "def f(a, b): return {'sum': a + b, 'of': [a, b]}",
        "def f(a, b):\n    print('x')\n    return {'of': (a, b), 'sum': b + float(a)}",
        "def f(a, b): return 0",
    )
    call = Verify("functions", codes, code=Code(("[1, 2]", "[3, 4]"), "f"))
    told = await answered(verifier, call)
    assert (told.same, told.notes) == ((codes[:2],), ())


async def test_a_program_is_run_once_however_often_it_is_asked_of() -> None:
    """What a program gives is known when later ones are compared with it, for the same inputs."""
    ran = []

    class Counting(Sandbox):
        async def run(self, program: str, stdin: str, entry: str | None = None) -> Run:
            ran.append(program)
            return await super().run(program, stdin, entry)

    verifier = Verifier(sandbox=Counting())
    for place, inputs in enumerate((("",), ("",), ("", "1"))):
        programs = ("print(0)", "print( 0)", f"print(0) # {place}")
        told = await answered(verifier, Verify(f"call-{place}", programs, code=Code(inputs)))
        assert told.same == (programs,)
    assert ran.count("print(0)") == ran.count("print( 0)") == 3
    assert len(ran) == 3 + 1 + 6
    await verifier.close()


async def test_programs_that_take_too_long_together_count_as_different() -> None:
    """A call ends in its time, whatever it is given to run, and says what it didn't come to."""
    verifier = Verifier(sandbox=Sandbox(Limits(seconds=9.0, cpu_seconds=9)), patience_seconds=2.0)
    slow = tuple(f"while True: pass  # {place}" for place in range(4))
    same = ("print(1)", "print( 1)")
    began = time.monotonic()
    told = await answered(verifier, Verify("late", (*same, *slow), code=Code(("",))))
    assert time.monotonic() - began < 6
    assert told.same == (same,)
    assert told.notes == ("There was no time to run all programs: those left count as different.",)
    await verifier.close()


async def test_without_inputs_programs_are_not_compared(verifier: Verifier) -> None:
    """Nothing is run, and a note says why."""
    told = await answered(verifier, Verify("none", ("print(1)", "print(1) "), code=Code(())))
    assert (told.finish, told.same) == ("done", ())
    assert "inputs" in told.notes[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os\nwhile True: os.fork()", "Resource temporarily unavailable"),
        (
            "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
            "processor time|longer than 2 seconds",
        ),
        ("x = []\nwhile True: x.append(bytearray(1 << 26))", "MemoryError"),
        ("while True: pass", "processor time|longer than 2 seconds"),
        ("import time\ntime.sleep(60)", "longer than 2 seconds"),
        ("while True: print('x' * 1000)", "wrote more than 65536 bytes"),
        ("open('big', 'wb').write(bytes(5 << 20))", "File too large"),
        (
            "for i in range(9): open(str(i), 'wb').write(bytes(3 << 20))",
            "No space left",
        ),
        ("open('/usr/lib/evil', 'w')", "Read-only file system|Permission denied"),
        ("open('/etc/passwd')", "No such file"),
        ("import socket\nsocket.socket()", "Operation not permitted"),
        ("import urllib.request as u\nu.urlopen('http://127.0.0.1/')", "not permitted|resolution"),
        ("import os\nos.kill(1, 9)\nimport time\ntime.sleep(60)", "not permitted|longer than 2"),
        ("import ctypes\nctypes.CDLL(None).abort()", "Aborted"),
    ],
)
async def test_no_harm_gets_through(sandbox: Sandbox, code: str, words: str) -> None:
    """What is hostile ends within its limits, without an output, and the words say how."""
    before = set(psutil.pids())
    run = await sandbox.run(code, "")
    assert run.output is None
    assert run.fault is not None
    assert any(word in run.fault for word in words.split("|")), run.fault
    assert not run.refused
    left = [pid for pid in set(psutil.pids()) - before if _is_code(pid)]
    assert not left


def _is_code(pid: int) -> bool:
    """Whether this is a process of a jail or of the code in it."""
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    return "program.py" in command or "jail" in command


async def test_the_code_sees_nothing_of_the_machine(sandbox: Sandbox) -> None:
    """It is nobody, in an empty folder, with no other process and no setting of ours in sight."""
    seen = (
        "import os\nprint(os.getuid() != 0, os.listdir('.'), sorted(os.environ), os.getpid() < 9)"
    )
    assert await sandbox.run(seen, "") == Run("True [] ['LANG'] True\n")
    run = await sandbox.run("print(open('/proc/1/environ').read())", "")
    assert "No such file" in (run.fault or "")


async def test_what_the_code_leaves_running_ends_with_it(sandbox: Sandbox) -> None:
    """A grandchild in a session of its own doesn't outlive its program."""
    mark = f"mark-{os.getpid()}"
    code = f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.execv({_python()!r}, "
    code += f"['{mark}', '-c', 'import time; time.sleep(60)'])\ntime.sleep(0.3)\nprint('done')"
    assert await sandbox.run(code, "") == Run("done\n")
    names = [" ".join(_command(process)) for process in psutil.process_iter()]
    assert not any(mark in name for name in names)


def _python() -> str:
    return os.path.realpath(sys.executable)


async def test_a_cancelled_run_leaves_nothing(sandbox: Sandbox) -> None:
    """Whoever stops waiting stops the code."""
    before = set(psutil.pids())
    run = asyncio.create_task(sandbox.run("import time\ntime.sleep(60)", ""))
    while not any(_is_code(pid) for pid in set(psutil.pids()) - before):
        await asyncio.sleep(0.02)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    async with asyncio.timeout(2):
        while any(_is_code(pid) for pid in set(psutil.pids()) - before):
            await asyncio.sleep(0.02)


async def test_without_confinement_nothing_runs_unless_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where namespaces aren't permitted the code is refused, with what it would take."""
    # A jail whose kernel permits nothing: one that fails where the real one leaves its namespaces.
    forbidding = tmp_path / "forbidding.py"
    forbidding.write_text(
        "from workers.verifying import confinement\n"
        "from workers.verifying.jail import main\n"
        "def unshare(): raise PermissionError(1, 'unshare: Operation not permitted')\n"
        "confinement.unshare = unshare\n"
    )
    places = [str(Path(__file__).parents[2]), str(tmp_path)]
    start = f"import sys; sys.path[:0] = {places!r}; from forbidding import main"
    monkeypatch.setattr("workers.verifying.sandbox._JAIL", start)
    refused = await Sandbox().run("print(1)", "")
    assert refused.refused
    assert "Operation not permitted" in (refused.fault or "")
    assert "namespaces" in (refused.fault or "")
    verifier = Verifier(sandbox=Sandbox())
    told = await answered(verifier, Verify("r", ("a", "b"), code=Code(("",))))
    assert (told.finish, told.error) == ("failed", refused.fault)
    await verifier.close()
