"""Ways out of the sandbox that programs know of, each tried from inside of it."""

from __future__ import annotations

import platform

import pytest

from workers.verifying import confinement
from workers.verifying.sandbox import Limits, Run, Sandbox


@pytest.fixture
def sandbox() -> Sandbox:
    """One whose programs may take their time on a busy machine."""
    return Sandbox(Limits(seconds=20.0, cpu_seconds=5))


async def test_no_system_call_that_leads_out_is_permitted(sandbox: Sandbox) -> None:
    """By their numbers, past all of Python: sockets, processes, namespaces, the kernel."""
    numbers = confinement._DENIED[platform.machine()] + confinement._EVERYWHERE
    code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def errno(number):
    return 0 if libc.syscall(number, 0, 0, 0, 0, 0) >= 0 else ctypes.get_errno()
print([number for number in {numbers} if errno(number) != 1])
"""
    assert await sandbox.run(code, "") == Run("[]\n")


OPENED = """
found = []
for path in {paths}:
    try:
        with open(path, {mode!r}) as file:
            file.{what}
        found.append(path)
    except OSError:
        pass
print(found)
"""


@pytest.mark.parametrize(
    ("paths", "mode", "what"),
    [
        (
            [
                *("/etc/passwd", "/etc/shadow", "/root/.ssh/id_rsa", "/proc/1/environ"),
                *("/proc/self/root/etc/passwd", "/proc/1/root/etc/passwd", "/proc/1/cwd/x"),
                *("/dev/mem", "/dev/kmsg", "/dev/sda", "/sys/kernel/uevent_helper"),
                *("../../../../etc/passwd", "/run/docker.sock", "/var/run/secrets/token"),
            ],
            "rb",
            "read(1)",
        ),
        (
            [
                *("/usr/x", "/lib/x", "/x", "/proc/sys/kernel/core_pattern", "/sys/x"),
                *("/usr/lib/python3.11/sitecustomize.py", "/etc/ld.so.preload", "/proc/1/oom_adj"),
            ],
            "w",
            "write('x')",
        ),
    ],
    ids=["reading", "writing"],
)
async def test_no_file_of_the_machine_is_in_reach(
    sandbox: Sandbox, paths: list[str], mode: str, what: str
) -> None:
    """Neither by its path, nor by way of /proc, nor up from where the program is."""
    run = await sandbox.run(OPENED.format(paths=paths, mode=mode, what=what), "")
    assert run == Run("[]\n")


@pytest.mark.parametrize(
    "attempt",
    [
        "os.setuid(0)",
        "os.setgid(0)",
        "resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))",
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))",
        "os.mknod('disk', 0o60600, os.makedev(8, 0))",
        "os.chroot('/')",
        "socket.create_connection(('127.0.0.1', 6379), 1)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socket(socket.AF_NETLINK)",
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        "os.nice(-5)",
        "os.symlink('/etc/passwd', 'link') or open('link')",
    ],
)
async def test_no_limit_is_lifted_from_inside(sandbox: Sandbox, attempt: str) -> None:
    """Neither its rights, nor its limits, nor what it may reach grow."""
    code = f"""
import os, resource, socket
try:
    {attempt}
except (OSError, ValueError) as error:
    print("refused")
"""
    assert await sandbox.run(code, "") == Run("refused\n")


async def test_a_key_in_the_services_environment_is_not_the_programs(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the service was started with, secrets included, isn't handed on."""
    monkeypatch.setenv("REDIS_URL", "redis://:swordfish@host")
    code = "import os, subprocess, sys\nprint('swordfish' in str(os.environ))"
    assert await sandbox.run(code, "") == Run("False\n")
