"""A bad wire: stands between a client and a real Redis, and loses, cuts or delays replies.

What the server did is done, and the client doesn't know. Requests always get through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Fate: TypeAlias = Literal["pass", "swallow", "cut", "late"]


@dataclass(slots=True)
class Proxy:
    """Passes bytes between its clients and a Redis, and asks `fate` what becomes of each reply.

    `upstream` is a socket's path, or a port of this machine; put anew, it is where connections
    made from then on lead. A late reply takes `seconds` longer.
    """

    upstream: Path | int
    fate: Callable[[], Fate] = lambda: "pass"
    seconds: float = 0.2
    lost: int = 0
    requests: int = 0
    late: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def at(self, path: Path) -> AsyncIterator[str]:
        """Listens at `path`, given as a URL, until the block ends."""
        server = await asyncio.start_unix_server(self._serve, path)
        async with self._until_left(server):
            yield f"unix://{path}"

    @asynccontextmanager
    async def on_port(self) -> AsyncIterator[str]:
        """Listens on a free port of this machine, given as a URL, until the block ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with self._until_left(server):
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    @asynccontextmanager
    async def _until_left(self, server: asyncio.Server) -> AsyncIterator[None]:
        try:
            yield
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            from_redis, to_redis = await self._connect()
        except OSError:
            writer.close()
            self.tasks.discard(task)
            return
        ways = {
            asyncio.ensure_future(self._requests(reader, to_redis)),
            asyncio.ensure_future(self._replies(from_redis, writer)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.close()
            to_redis.close()
            self.tasks.discard(task)
            for way in ways:
                way.cancel()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.upstream, int):
            return await asyncio.open_connection("127.0.0.1", self.upstream)
        return await asyncio.open_unix_connection(self.upstream)

    async def _requests(self, reader: asyncio.StreamReader, to_redis: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(2**16):
            self.requests += 1
            to_redis.write(chunk)

    async def _replies(
        self, from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await from_redis.read(2**16):
            match self.fate():
                case "pass":
                    writer.write(chunk)
                case "late":
                    self.late.set()
                    await asyncio.sleep(self.seconds)
                    writer.write(chunk)
                case "swallow":
                    self.lost += 1
                case "cut":
                    self.lost += 1
                    return


def socket_of(url: str) -> Path:
    """Where a URL of a socket leads."""
    return Path(url.removeprefix("unix://"))
