"""The program that runs one answer's code where it can do no harm, and says how that ended.

`main` runs in a process of its own for each run. It reads a job and writes a report, both as JSON
(`Job` and `Report`). Three processes: this one keeps the time and reads the output; its child is
the first process of a PID namespace, so that whatever the code starts ends with it; that one's
child becomes the code. When whoever started this ends, or kills it, all three end.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn, TypedDict

from workers.verifying import confinement

_PYTHON = os.path.realpath(sys.executable)
"""Looked up while the links on the way to it can be seen."""
_PROGRAM = "program.py"
_READ_BYTES = 1 << 16
_ERROR_BYTES = 4096

_CALLER = """
import json, os, sys
report = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
arguments = json.load(sys.stdin)
names = {"__name__": "answer"}
exec(compile(open(sys.argv[1]).read(), "program.py", "exec"), names)
result = names[sys.argv[2]](*arguments)
report.write(json.dumps(result, sort_keys=True))
"""
"""Calls the function of that name with the arguments on standard input; what the answer prints
meanwhile isn't its result."""


class Job(TypedDict):
    """`entry` names a function to call with the JSON array on `stdin`; None runs the program.

    Without `confined`, only limits, the filter of system calls and a folder of its own remain.
    """

    program: str
    entry: str | None
    stdin: str
    seconds: float
    cpu_seconds: int
    memory_bytes: int
    processes: int
    file_bytes: int
    output_bytes: int
    confined: bool


class Report(TypedDict):
    """`ended` is "exit", "signal", "time", "output" (there was too much of it) or "refused".

    `status` is the exit status or the signal's number; `errors` is the end of standard error, or
    why the run was refused.
    """

    ended: str
    status: int
    stdout: str
    errors: str


def main() -> None:
    confinement.die_with_parent()
    job: Job = json.load(sys.stdin)
    json.dump(_run(job), sys.stdout)


def _run(job: Job) -> Report:
    folder = None if job["confined"] else tempfile.mkdtemp(prefix="longthink-answer-")
    try:
        uid = confinement.unshare() if job["confined"] else 65534
        return _watch(job, uid, folder)
    except OSError as error:
        return Report(ended="refused", status=0, stdout="", errors=str(error))
    finally:
        if folder is not None:
            shutil.rmtree(folder)


def _watch(job: Job, uid: int, folder: str | None) -> Report:
    """Start the code, read what it writes, and end it when it has ended or gone too far."""
    pipes = {name: os.pipe() for name in ("stdout", "stderr", "status")}
    first = os.fork()
    if first == 0:
        _be_first(job, uid, folder, {name: ends[1] for name, ends in pipes.items()})
    for _, written in pipes.values():
        os.close(written)
    texts = {name: bytearray() for name in pipes}
    over = _read(texts, {name: ends[0] for name, ends in pipes.items()}, job)
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    kind, _, status = texts["status"].decode().partition(" ")
    if kind == "refused":
        return Report(ended="refused", status=0, stdout="", errors=status)
    return Report(
        ended=over or kind or "signal",
        status=int(status or signal.SIGKILL),
        stdout=texts["stdout"].decode(errors="replace"),
        errors=texts["stderr"].decode(errors="replace"),
    )


def _read(texts: dict[str, bytearray], ends: dict[str, int], job: Job) -> str | None:
    """Read until the status has come; what else was written by then counts.

    Returns "time" or "output" where it can't be waited for any longer.
    """
    deadline = time.monotonic() + job["seconds"]
    with selectors.DefaultSelector() as selector:
        for name, end in ends.items():
            selector.register(end, selectors.EVENT_READ, name)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "time"
            ready = selector.select(left)
            ended = False
            for key, _ in ready:
                piece = os.read(key.fd, _READ_BYTES)
                if piece:
                    texts[key.data] += piece
                else:
                    selector.unregister(key.fd)
                    ended = ended or key.data == "status"
            del texts["stderr"][:-_ERROR_BYTES]
            if len(texts["stdout"]) > job["output_bytes"]:
                return "output"
            if ended:
                # Its pipe is the last one to be closed, but maybe not the last one to be read.
                _drain(texts["stdout"], ends["stdout"], job["output_bytes"])
                return None


def _drain(text: bytearray, end: int, most: int) -> None:
    """Read what is left in a pipe, and wait for nothing."""
    os.set_blocking(end, False)
    try:
        while len(text) <= most and (piece := os.read(end, _READ_BYTES)):
            text += piece
    except BlockingIOError:
        return


def _be_first(job: Job, uid: int, folder: str | None, ends: dict[str, int]) -> NoReturn:
    """Be the first process of the namespace: start the code, wait for its end, and say it."""
    try:
        confinement.die_with_parent()
        files = {f"/{_PROGRAM}": job["program"]}
        if folder is None:
            confinement.replace_root(_shown(), files, job["file_bytes"])
            place, program = "/tmp", f"/{_PROGRAM}"  # noqa: S108 - its own, in its own root
        else:
            place, program = folder, str(Path(folder, _PROGRAM))
            Path(program).write_text(job["program"])
            Path(folder).chmod(0o777)  # the code may run as another user than this one
        said, heard = os.pipe()
        code = os.fork()
        if code == 0:
            os.close(said)
            _be_code(job, uid, place, program, ends, heard)
        os.close(heard)
        for name in ("stdout", "stderr"):
            os.close(ends[name])
        # Closed by the code's start; anything else in it says why that couldn't be.
        refusal = os.read(said, _ERROR_BYTES)
        status = _wait_for(code)
        if refusal:
            word = b"refused " + refusal
        elif os.WIFSIGNALED(status):
            word = f"signal {os.WTERMSIG(status)}".encode()
        else:
            word = f"exit {os.WEXITSTATUS(status)}".encode()
        os.write(ends["status"], word)
    except OSError as error:
        os.write(ends["status"], f"refused {error}".encode())
    finally:
        os._exit(0)


def _wait_for(code: int) -> int:
    """Wait for the code's end, and meanwhile for that of whatever it has left behind."""
    while True:
        pid, status = os.wait()
        if pid == code:
            return status


def _be_code(
    job: Job, uid: int, place: str, program: str, ends: dict[str, int], refusals: int
) -> NoReturn:
    """Give up all that is left to give up, and become the code."""
    try:
        os.setsid()
        stdin = os.memfd_create("stdin")
        os.write(stdin, job["stdin"].encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        for number, end in enumerate((stdin, ends["stdout"], ends["stderr"])):
            os.dup2(end, number)
        os.chdir(place)
        confinement.become(uid)
        confinement.limit(
            cpu_seconds=job["cpu_seconds"],
            memory_bytes=job["memory_bytes"],
            # Without a namespace, processes could outlive this one.
            processes=job["processes"] if job["confined"] else 0,
            file_bytes=job["file_bytes"],
        )
        confinement.filter_calls()
        entry = job["entry"]
        arguments = [program] if entry is None else ["-c", _CALLER, program, entry]
        command = [_PYTHON, "-I", "-S", "-B", *arguments]
        os.execve(_PYTHON, command, {"LANG": "C.UTF-8"})  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(refusals, str(error).encode())
    finally:
        os._exit(1)


def _shown() -> list[str]:
    """What a Python without site-packages needs of this machine; what holds others comes first."""
    libraries = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    own = map(str, Path(sys.base_prefix, "lib").glob("libpython3*"))
    return [*libraries, str(Path(os.__file__).parent), *own, _PYTHON, "/dev/null"]
