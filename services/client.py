"""Speaks to a running service over HTTP, for the command line and evaluations.

A reply is the API's JSON as it came. A question that is refused for the moment only is asked again,
as nothing was spent on it; anything else that is not a reply is raised once, as ServiceError.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from planner.errors import LongthinkError

KEY = "LONGTHINK_API_KEY"
"""The variable that has the API key to send. On a command line everybody could read it."""

_CHAT = "/v1/chat/completions"
_BUSY = (429, 503)
_TRIES = 6
_LONGEST_WAIT = 20.0


class ServiceError(LongthinkError):
    """The service can't be reached, or refused. `status` is HTTP's, None without a response."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A connection to the service at `url`; use it as a context.

    It sends `key`, or else the one in the environment, or none.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        tries: int = _TRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """What is refused for the moment only is asked `tries` times."""
        key = key or os.environ.get(KEY)
        self._tries = tries
        self.url = url.rstrip("/").removesuffix("/v1")
        self._http = httpx.AsyncClient(
            base_url=self.url,
            transport=transport,
            headers={"authorization": f"Bearer {key}"} if key else {},
            # A search may take as long as its budget lets it; only connecting may not.
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def model(self) -> str:
        """The name of the model that it serves, the first where there are several."""
        listed = await self._get("/v1/models")
        try:
            return str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise ServiceError(f"{self.url} lists no model: is it longthink?") from error

    async def trace(self, trace_id: str) -> Any:
        """The trace of a request, as JSON."""
        return await self._get(f"/v1/traces/{trace_id}")

    async def metrics(self) -> str:
        """The service's figures and its engines', in Prometheus' text format."""
        async with self._sent("GET", "/metrics") as response:
            return (await response.aread()).decode()

    async def follow(self, trace_id: str) -> AsyncIterator[dict[str, Any]]:
        """The events of a trace from the first to the last, as they come.

        Raises ServiceError also where the service gives the search up for lost.
        """
        kind = ""
        async with self._sent("GET", f"/v1/traces/{trace_id}/events") as response:
            async for line in _lines(response):
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    event = self._object(value)
                    if kind == "lost":
                        raise ServiceError(str(event.get("reason")))
                    yield event

    async def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one request."""
        async with self._sent("POST", _CHAT, body) as response:
            return self._object(await response.aread())

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a streamed reply, as they come.

        Raises ServiceError also for an error in mid-stream, and for a stream that breaks off.
        """
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with self._sent("POST", _CHAT, streamed) as response:
            async for line in _lines(response):
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:"):
                    continue
                if data == "[DONE]":
                    return
                chunk = self._object(data)
                if "error" in chunk:
                    raise ServiceError(_told(chunk) or "The stream ended with an error.")
                yield chunk
        raise ServiceError("The connection broke before the reply was complete.")

    async def _get(self, path: str) -> Any:
        async with self._sent("GET", path) as response:
            return self._json(await response.aread())

    @asynccontextmanager
    async def _sent(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """A response of 200, its body still to be read."""
        try:
            response = await self._tried(method, path, body)
            try:
                yield response
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ServiceError(f"The service at {self.url} doesn't answer: {reason}.") from error
        except httpx.InvalidURL as error:
            raise ServiceError(f"{self.url} is no address of a service: {error}.") from error

    async def _tried(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> httpx.Response:
        attempt = 0
        while True:
            request = self._http.build_request(method, path, json=body)
            response = await self._http.send(request, stream=True)
            if response.status_code == httpx.codes.OK:
                return response
            await response.aread()
            await response.aclose()
            attempt += 1
            if body is None or attempt == self._tries or not _later(response):
                told = _told(_parsed(response.content)) or f"HTTP status {response.status_code}"
                if response.status_code == httpx.codes.UNAUTHORIZED:
                    told = f"{told} Put your key into the variable {KEY}."
                raise ServiceError(told, response.status_code)
            await asyncio.sleep(_wait(response, attempt))

    def _object(self, text: str | bytes) -> dict[str, Any]:
        said = self._json(text)
        if not isinstance(said, dict):
            raise ServiceError(f"{self.url} sent something that is no reply: is it longthink?")
        return said

    def _json(self, text: str | bytes) -> Any:
        said = _parsed(text)
        if said is None:
            raise ServiceError(f"{self.url} sent something that isn't JSON: is it longthink?")
        return said


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """The lines of a stream of events.

    They end with a line feed. httpx would also take one for ended at a line separator, which stands
    in JSON as it is and may be part of what a model wrote.
    """
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode().removesuffix("\r")


def _later(response: httpx.Response) -> bool:
    """Whether it was refused with nothing spent, for the moment only."""
    again = response.headers.get("x-should-retry") != "false"
    return response.status_code in _BUSY and again


def _wait(response: httpx.Response, attempt: int) -> float:
    """Seconds to wait: what the service says, else longer each time; never all at once."""
    try:
        asked = float(response.headers["retry-after-ms"]) / 1000
    except (KeyError, ValueError):
        asked = 0.125 * 2 ** min(attempt, 10)
    return min(_LONGEST_WAIT, asked) * random.uniform(1.0, 1.5)


def _parsed(text: str | bytes) -> Any:
    """The JSON value, or None where it isn't JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _told(said: Any) -> str | None:
    """The message of OpenAI's error object."""
    error = said.get("error") if isinstance(said, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message) if message else None
