"""A service that is told to stop: what it owes is answered, and nothing of it is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped, unused-ignore]
import pytest

SHARED = "/dev/shm/"
CHAT = "/v1/chat/completions"
BODY = {
    "model": "longthink-reference",
    "messages": [{"role": "user", "content": "Anna has 3 boxes with 12 pens each. How many pens?"}],
}


class Serving:
    """A `longthink serve` of its own, in a temporary folder of its own."""

    def __init__(self, *settings: str) -> None:
        # Ray's sockets lie in it, so its name must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="lt", dir="/tmp"))
        flags = [word for one in ("service.port=0", *settings) for word in ("--set", one)]
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("longthink"), "serve", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.folder)},
            start_new_session=True,
        )
        self.url = self._url()

    def _url(self) -> str:
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if found := re.search(r"answers at (http://\S+)/v1", line):
                self._reading = threading.Thread(target=self.process.stdout.read, daemon=True)
                self._reading.start()
                return found[1]
        raise AssertionError(said)

    def processes(self) -> list[psutil.Process]:
        """All that it has started, and it itself."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def shared_memory(self) -> set[Path]:
        """The files in shared memory that its processes have open."""
        inodes = set[int]()
        for process in self.processes():
            with suppress(OSError):
                text = Path(f"/proc/{process.pid}/maps").read_text()
                inodes.update(int(line.split()[4]) for line in text.splitlines() if SHARED in line)
        return {file for file in Path(SHARED).glob("*") if file.stat().st_ino in inodes}

    def left(self) -> list[Path]:
        """What it left in its folder, but for Ray's logs and their folders."""
        everything = self.folder.rglob("*")
        return [
            one
            for one in everything
            if stat.S_ISSOCK(one.lstat().st_mode) or one.relative_to(self.folder).parts[0] != "ray"
        ]

    def close(self) -> None:
        """Kill what is left of it."""
        for process in self.processes() if self.process.poll() is None else ():
            process.kill()
        self.process.wait()
        self._reading.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def serving() -> Iterator[Serving]:
    """The service, running."""
    one = Serving("service.grace_seconds=20")
    yield one
    one.close()


class Asked(threading.Thread):
    """A request of its own thread."""

    def __init__(self, url: str, **more: Any) -> None:
        super().__init__(daemon=True)
        self._url, self._body = url, {**BODY, **more}
        self.reply: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        """Ask, and wait for the reply."""
        self.reply = httpx.post(f"{self._url}{CHAT}", json=self._body, timeout=100)

    def answered(self) -> httpx.Response:
        """The reply, once it is there."""
        self.join(60)
        assert self.reply is not None
        return self.reply


def long(candidates: int) -> dict[str, Any]:
    """A request that takes a while, or for ever."""
    budget = {"candidates": candidates}
    return {"longthink": {"strategy": "majority", "stop": "none", "seed": 1, "budget": budget}}


def test_a_stopped_service_answers_and_leaves_nothing(serving: Serving) -> None:
    """Requests in flight are answered, a short one in full and an endless one with the best so far;
    new ones and those that wait are refused; followers are let go; and then all of it is gone.
    """
    httpx.post(f"{serving.url}{CHAT}", json=BODY, timeout=100).raise_for_status()
    endless = Asked(serving.url, **long(4096))
    follower = httpx.stream("GET", f"{serving.url}/v1/traces/{_trace(serving)}/events", timeout=60)
    with httpx.Client(base_url=serving.url, timeout=60) as kept, follower as feed:
        kept.get("/health/ready").raise_for_status()
        waiting = Asked(serving.url)
        _until(lambda: "longthink_queue_requests 1.0" in kept.get("/metrics").text)
        processes, shared = serving.processes(), serving.shared_memory()
        os.kill(serving.process.pid, signal.SIGTERM)
        told = time.monotonic()
        _until(lambda: kept.get("/health/ready").status_code == 503)
        noticed = time.monotonic() - told
        ready = kept.get("/health/ready")
        refused = kept.post(CHAT, json=BODY)
        turned_away = waiting.answered()
        best = endless.answered()
        events = "".join(feed.iter_text())
    assert ready.json()["status"] == "draining"
    assert ready.headers["connection"] == "close"
    for one in (refused, turned_away):
        assert (one.status_code, one.json()["error"]["code"]) == (503, "draining")
        assert int(one.headers["retry-after"]) >= 1
    assert best.status_code == 200, best.text
    assert best.json()["longthink"]["stopped"] == "cancelled"
    assert best.json()["longthink"]["answer"]
    assert "event: closed" in events
    assert serving.process.wait(90) == 0
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert [it.cmdline() for it in alive] == []
    assert serving.left() == []
    assert [it for it in shared if it.exists()] == []
    assert noticed < 5  # a second on a machine that has nothing else to do


def _trace(serving: Serving) -> str:
    """The newest request's trace, once it is there."""
    found: list[str] = []

    def look() -> bool:
        listed = httpx.get(f"{serving.url}/v1/traces", timeout=60).json()["data"]
        found[:] = [it["id"] for it in listed if it["under_way"]]
        return bool(found)

    _until(look)
    return found[0]


def _until(true: Any, seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.05)
