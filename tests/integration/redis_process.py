"""A redis-server on a port of this machine, to be stopped, killed, started anew and demoted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import ConnectionError as Broken

from services.redis_server import find_redis_server


class RedisProcess:
    """One server at `url`, always at the same port. It keeps nothing on disk. Use as a context."""

    def __init__(self, replica_of: RedisProcess | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._primary = replica_of
        self._folder = tempfile.TemporaryDirectory(prefix="lt-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and return once it answers."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "dir": self._folder.name,
            "repl-diskless-sync-delay": "0",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        if self._primary is not None:
            words += ["--replicaof", "127.0.0.1", str(self._primary.port)]
        self._process = subprocess.Popen(
            [find_redis_server(), *words], stdout=subprocess.DEVNULL, start_new_session=True
        )
        give_up = time.monotonic() + 20
        while not self._answers():
            if time.monotonic() > give_up:
                raise RuntimeError(f"redis-server on port {self.port} does not answer.")
            time.sleep(0.005)

    def pause(self) -> None:
        """Have it hang: connections stay, nothing is answered."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; what it knew is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def promote(self, former: RedisProcess) -> None:
        """Fail over to this one: the former primary becomes its replica."""
        with self.admin() as here, former.admin() as there:
            there.execute_command("CLIENT", "PAUSE", "1000")
            here.replicaof("NO", "ONE")
            there.replicaof("127.0.0.1", str(self.port))
            there.execute_command("CLIENT", "UNPAUSE")

    def in_step(self) -> bool:
        """Whether this replica has all that its primary had."""
        with self.admin() as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    def admin(self) -> Redis:
        """A plain client of it."""
        return Redis(port=self.port, decode_responses=True, socket_timeout=5)

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        try:
            with self.admin() as client:
                return bool(client.ping())
        except Broken:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._folder.cleanup()
