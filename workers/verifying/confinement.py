"""Takes from a process, step by step, what an answer's code must not have.

Thin names for what Linux offers: namespaces, mounts, resource limits, a filter of system calls.
Every function raises OSError where the kernel doesn't permit it. Standard library only: the jail
imports this in a Python without site-packages.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# linux/sched.h
_NEW_MOUNTS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
# linux/mount.h
_BIND, _RECURSIVE, _PRIVATE, _DETACH = 4096, 16384, 1 << 18, 2
_NO_SUID, _NO_DEVICES, _NO_EXEC = 2, 4, 8
_ATTRIBUTES_READ_ONLY, _AT_RECURSIVE, _AT_FDCWD = 1 | 2, 0x8000, -100
_MOUNT_SETATTR = 442
# linux/prctl.h
_PDEATHSIG, _SECCOMP, _NO_NEW_PRIVILEGES, _FILTER = 1, 22, 38, 2
# linux/audit.h, linux/bpf_common.h, linux/seccomp.h
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_X32 = 0x40000000

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_EVERYWHERE = (425, 428, 429, 430, 431, 432, 433, _MOUNT_SETATTR, 447)
"""io_uring_setup, the mount calls from open_tree to fspick, memfd_secret."""
# fmt: off
_DENIED = {
    # socket, shmget, semget, msgget, memfd_create; ptrace, process_vm_readv and _writev;
    # unshare, setns, mount, umount2, pivot_root, chroot, open_by_handle_at;
    # add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd
    "x86_64": (
        41, 29, 64, 68, 319, 101, 310, 311,
        272, 308, 165, 166, 155, 161, 304,
        248, 249, 250, 321, 298, 323,
    ),
    "aarch64": (
        198, 194, 190, 186, 279, 117, 270, 271,
        97, 268, 40, 39, 41, 51, 265,
        217, 218, 219, 280, 241, 282,
    ),
}
# fmt: on
"""System calls that are denied: to reach the network, other processes and the kernel's rarer
parts, and to take memory that no resource limit counts."""

_OWN_UID = 1000
"""Who the code is inside a user namespace."""
_UIDS = range(61184, 65520)
"""Who it is where root starts it: one of those that systemd, too, gives to nobody for long."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _call("prctl", _PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def unshare() -> int:
    """Leave the machine's network, processes, mounts and IPC; children are born outside of them.

    Root needs no user namespace for it, anybody else does. Returns the user id that code is to run
    under.
    """
    apart = _NEW_MOUNTS | _NEW_UTS | _NEW_IPC | _NEW_PIDS | _NEW_NETWORK
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        _call("unshare", apart)
        return _UIDS[os.getpid() % len(_UIDS)]
    _call("unshare", apart | _NEW_USER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_OWN_UID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{_OWN_UID} {gid} 1")
    return _OWN_UID


def replace_root(shown: Sequence[str], files: Mapping[str, str], scratch_bytes: int) -> None:
    """Have a root directory with nothing in it but `shown`, `files` and an empty /tmp.

    All of it can only be read, but /tmp, which holds so many bytes and runs nothing.
    """
    # Any folder would do to build on; nothing of what is shown lies in this one.
    root = "/proc"
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEVICES, "size=4m,mode=755")
    for path in shown:
        _show(path, root)
    for path, content in files.items():
        Path(root + path).write_text(content)
        Path(root + path).chmod(0o444)
    Path(root, "tmp").mkdir()
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/")
    attributes = struct.pack("4Q", _ATTRIBUTES_READ_ONLY, 0, 0, 0)
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes))
    scratch = f"size={scratch_bytes},nr_inodes=1024,mode=1777"
    _mount("tmpfs", "/tmp", "tmpfs", _NO_SUID | _NO_DEVICES | _NO_EXEC, scratch)  # noqa: S108 - its own


def _show(path: str, root: str) -> None:
    """Show a file or a folder of the machine under the same path below `root`."""
    source, target = Path(path), Path(root + path)
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()
    _mount(path, str(target), None, _BIND | _RECURSIVE)


def become(uid: int) -> None:
    """Be this user, without any group or capability of who it was before."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def limit(*, cpu_seconds: int, memory_bytes: int, processes: int, file_bytes: int) -> None:
    """Bound what this process and its children may use, each of them but the processes."""
    for kind, most in {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }.items():
        resource.setrlimit(kind, (most, most))
    # At the first it is told, at the second it is killed.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))


def limit_memory(size: int) -> None:
    """Bound the address space of this process, in bytes."""
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def filter_calls() -> None:
    """Deny the system calls of `_DENIED` to this process and its children, for good."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(f"there is no list of system calls for {machine}")
    denied = (*_DENIED[machine], *_EVERYWHERE)
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call's number
        (_AT_LEAST, len(denied) + 1, 0, _X32),
        *((_EQUAL, len(denied) - place, 0, number) for place, number in enumerate(denied)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _call("prctl", _SECCOMP, _FILTER, header, 0, 0)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        flags,
        data.encode(),
    )


def _call(name: str, *arguments: int | bytes | None) -> None:
    """Call this function of the C library; raises OSError where it fails."""
    wide = [ctypes.c_ulong(it) if isinstance(it, int) and it >= 0 else it for it in arguments]
    if getattr(_libc, name)(*wide) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
