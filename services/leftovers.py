"""What processes that were killed leave behind on this machine, and its removal.

Ray ends its workers, and what they have started, without letting them clean up. Engines then leave
sockets and files, which go into one folder (`Scratch`), and semaphores in shared memory, which are
remembered as long as somebody has them open (`SharedMemory`).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from workers.environment import SCRATCH

_SHARED = Path("/dev/shm")  # noqa: S108  nothing is made there
_OPEN = re.compile(rf"^\S+ \S+ \S+ \S+ (\d+) +{_SHARED}/", re.MULTILINE)
_PARENT = re.compile(r"^PPid:\s+(\d+)$", re.MULTILINE)


class Scratch:
    """A folder for what engines put down, gone with whoever entered it."""

    def __enter__(self) -> Path:
        folder = tempfile.mkdtemp(prefix="longthink-")
        os.environ[SCRATCH] = folder
        self._folder = Path(folder)
        return self._folder

    def __exit__(self, *exception: object) -> None:
        os.environ.pop(SCRATCH, None)
        shutil.rmtree(self._folder, ignore_errors=True)


class SharedMemory:
    """The files in shared memory that the processes started from here have open; on Linux only.

    They are known by their inodes: a semaphore is made under another name than it has later. What
    `others` have open, processes that are none of ours, stays.
    """

    def __init__(self, others: Collection[int] = ()) -> None:
        inodes = {
            int(inode)
            for process in descendants(os.getpid()) - {*others}
            for inode in _OPEN.findall(_read(process, "maps"))
        }
        self._files = {file for file in _SHARED.glob("*") if _inode(file) in inodes}

    def remove(self) -> None:
        """Remove those that are still there. To be called when the processes are gone."""
        for file in self._files:
            file.unlink(missing_ok=True)


def descendants(ancestor: int) -> set[int]:
    """The processes that it has started, and those in turn."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        if parent := _PARENT.search(_read(int(entry.name), "status")):
            children.setdefault(int(parent[1]), []).append(int(entry.name))
    found: set[int] = set()
    looking = [ancestor]
    while looking:
        for child in children.get(looking.pop(), ()):
            found.add(child)
            looking.append(child)
    return found


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except OSError:
        return None


def _read(process: int, what: str) -> str:
    """A file of /proc, or nothing where the process is gone or another's."""
    try:
        return Path(f"/proc/{process}/{what}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
