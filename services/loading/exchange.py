"""One request of a load over a connection of its own, from the first byte to the last.

It is written on the standard library's client: locust has its sockets wait without blocking, it
shows each line of a stream as it comes, and it never tries again by itself. A client that goes away
closes its socket, as one that crashed would.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import socket
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from planner.errors import InvalidOption
from services.loading.jobs import Job
from services.loading.sent import End, Sent, overspent

_BUSY = (429, 503)
_CONNECT_SECONDS = 10.0
_LONGEST_LINE = 64 << 20
_LONGEST_MESSAGE = 300

_Thing = TypeVar("_Thing")

Clock: TypeAlias = Callable[[], float]
"""Seconds from the start of the load."""


class Broken(Exception):
    """What came is no reply. `code` is the service's, where it said one."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service is."""

    host: str
    port: int | None
    secure: bool
    prefix: str

    @classmethod
    def of(cls, url: str) -> Address:
        """The parts of a service's URL. Raises InvalidOption for anything else."""
        parts = urlsplit(url.rstrip("/").removesuffix("/v1"))
        try:
            port = parts.port
        except ValueError as error:
            raise InvalidOption(f"{url} is no address of a service: {error}.") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidOption(f"{url} is no address of a service: it begins with http:// or so.")
        return cls(parts.hostname, port, parts.scheme == "https", parts.path)

    def connection(self) -> HTTPConnection:
        """A connection that isn't made yet."""
        kind = HTTPSConnection if self.secure else HTTPConnection
        return kind(self.host, self.port, timeout=_CONNECT_SECONDS)


@dataclass(slots=True)
class Exchange:
    """One request under way. `patience` is how many seconds it may take in all."""

    address: Address
    job: Job
    body: Mapping[str, Any]
    due: float
    clock: Clock
    patience: float
    began: float = field(init=False)
    _socket: socket = field(init=False)
    _first: float | None = field(init=False, default=None)
    _status: int | None = field(init=False, default=None)
    _retry_after: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def run(self) -> Sent:
        """Ask, and say what became of it."""
        try:
            with closing(self.address.connection()) as connection:
                return self._asked(connection)
        except TimeoutError:
            if self._leaves:
                return self.ended(End.HUNG_UP)
            return self.ended(End.FAILED, message="No reply came in time.")
        except Broken as error:
            return self.ended(End.FAILED, code=error.code, message=str(error))
        except (OSError, HTTPException, ValueError) as error:
            told = f"{type(error).__name__}: {error}".removesuffix(": ")
            return self.ended(End.FAILED, message=told[:_LONGEST_MESSAGE])

    def ended(self, end: End, **said: Any) -> Sent:
        """The record, as of now."""
        job = self.job
        return Sent(
            place=job.place,
            split=job.split,
            effort=job.effort,
            tenant=job.tenant,
            streamed=job.streamed,
            due=self.due,
            began=self.began,
            ended=self.clock(),
            end=end,
            gold=job.question.answer,
            first=self._first,
            status=self._status,
            retry_after=self._retry_after,
            **said,
        )

    def _asked(self, connection: HTTPConnection) -> Sent:
        connection.timeout = min(_CONNECT_SECONDS, self._left())
        connection.connect()
        self._socket = connection.sock
        path = f"{self.address.prefix}/v1/chat/completions"
        self._wait(connection).request(
            "POST", path, json.dumps(self.body).encode(), self._headers()
        )
        with self._wait(connection).getresponse() as response:
            self._status = response.status
            self._retry_after = response.getheader("retry-after") is not None
            if response.status != 200:
                return self._refused(response)
            if self.job.streamed:
                return self._streamed(response)
            return self._answered(_ours(json.loads(self._wait(response).read())))

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self.job.secret is not None:
            headers["authorization"] = f"Bearer {self.job.secret}"
        return headers

    def _refused(self, response: HTTPResponse) -> Sent:
        try:
            error = json.loads(self._wait(response).read())["error"]
            code, message = error.get("code"), str(error.get("message"))
        except (ValueError, KeyError, TypeError, AttributeError):
            code, message = None, f"HTTP status {response.status}"
        end = End.REFUSED if response.status in _BUSY else End.FAILED
        return self.ended(end, code=code, message=message[:_LONGEST_MESSAGE])

    def _streamed(self, response: HTTPResponse) -> Sent:
        ours: Mapping[str, Any] | None = None
        for chunk in self._chunks(response):
            if "error" in chunk:
                error = chunk["error"] or {}
                raise Broken(str(error.get("message"))[:_LONGEST_MESSAGE], error.get("code"))
            if self._first is None and _shows_work(chunk):
                self._first = self.clock()
            if "longthink" in chunk:
                ours = chunk["longthink"]
        if ours is None:
            raise Broken("The stream ended without the answer's figures: is it longthink?")
        return self._answered(ours)

    def _chunks(self, response: HTTPResponse) -> Iterator[Mapping[str, Any]]:
        """The chunks up to the last. Raises Broken where the stream ends before that."""
        while True:
            line = self._wait(response).readline(_LONGEST_LINE)
            if not line:
                raise Broken("The connection broke before the reply was complete.")
            data = line.strip()
            if data == b"data: [DONE]":
                return
            if data.startswith(b"data:"):
                yield json.loads(data.removeprefix(b"data:"))

    def _answered(self, ours: Mapping[str, Any]) -> Sent:
        return self.ended(
            End.ANSWERED,
            answer=ours.get("answer"),
            stopped=ours.get("stopped"),
            completion_tokens=int(ours["spent"]["completion_tokens"]),
            overspent=overspent(ours),
            trace_id=ours.get("trace_id"),
        )

    @property
    def _leaves(self) -> bool:
        return self.job.hangup is not None and self.job.hangup < self.patience

    def _left(self) -> float:
        """Seconds until the client has waited for long enough. Raises TimeoutError if it has."""
        hangup = self.patience if self.job.hangup is None else self.job.hangup
        left = self.began + min(hangup, self.patience) - self.clock()
        if left <= 0:
            raise TimeoutError
        return left

    def _wait(self, thing: _Thing) -> _Thing:
        """What is read from next waits no longer than the client does."""
        self._socket.settimeout(self._left())
        return thing


def _ours(reply: Any) -> Mapping[str, Any]:
    ours = reply.get("longthink") if isinstance(reply, dict) else None
    if not isinstance(ours, dict):
        raise Broken("What came is no reply of longthink's.")
    return ours


def _shows_work(chunk: Mapping[str, Any]) -> bool:
    """Whether it has a word of progress or of the answer in it."""
    deltas = [choice.get("delta", {}) for choice in chunk.get("choices", ())]
    return any(delta.get("content") or delta.get("reasoning_content") for delta in deltas)
