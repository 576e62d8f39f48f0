"""What was refused is refused again in front of the proxy, for as long as it holds, and told of."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from services.api.errors import HOLDS
from services.api.repeats import REPEATED, Repeats, repeated

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {
    "model": "reference",
    "messages": [{"role": "user", "content": "What is 6 x 7?"}],
    "longthink": {"budget": {"candidates": 8, "deadline_seconds": 6}},
}
KEY = {"authorization": "Bearer one"}


class Edge:
    """Refuses everything, says for how long that holds, and remembers what it heard."""

    def __init__(self) -> None:
        self.now = 100.0
        self.holds: str | None = "250"
        self.asked: list[dict[str, Any]] = []
        self.told: list[str | None] = []

    async def refuse(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.told.append(request.headers.get(REPEATED))
        headers = {"retry-after": "2", "retry-after-ms": "1700", "x-request-id": "the edge's"}
        if self.holds is not None:
            headers[HOLDS] = self.holds
        error = {"error": {"message": "Too much.", "code": "over_share"}}
        return JSONResponse(error, 429, headers)

    def client(self) -> httpx.AsyncClient:
        around = [Middleware(Repeats, now=lambda: self.now)]
        app = Starlette(routes=[Route(PATH, self.refuse, methods=["POST"])], middleware=around)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


async def test_a_refusal_is_said_again_for_as_long_as_it_holds() -> None:
    """Word by word, under an id of its own; then the edge is asked again, and told how often."""
    edge = Edge()
    async with edge.client() as http:
        first = await http.post(PATH, json=BODY, headers=KEY)
        again = [await http.post(PATH, json=BODY, headers=KEY) for _ in range(3)]
        edge.now += 0.26
        later = await http.post(PATH, json=BODY, headers=KEY)
        edge.now += 0.26
        last = await http.post(PATH, json=BODY, headers=KEY)
    assert {one.status_code for one in (first, *again, later, last)} == {429}
    assert {one.content for one in again} == {first.content}
    assert all(1700 <= int(one.headers["retry-after-ms"]) <= 2550 for one in again)
    assert len({one.headers["retry-after-ms"] for one in again}) > 1
    assert all(one.headers["retry-after"] in ("1", "2", "3") for one in again)
    assert len({one.headers["x-request-id"] for one in (first, *again)}) == 4
    assert all(HOLDS not in one.headers for one in (first, *again, later))
    assert len(edge.asked) == 3
    assert [repeated(said) for said in edge.told] == [{}, {"over_share": 3}, {}]


@pytest.mark.parametrize(
    ("headers", "change"),
    [
        ({"authorization": "Bearer two"}, {}),
        ({"authorization": "bearer one"}, {}),
        ({}, {"longthink": {"budget": {"candidates": 8, "deadline_seconds": 60}}}),
        ({}, {"reasoning_effort": "none"}),
        ({}, {"model": "other"}),
        ({"idempotency-key": "k"}, {}),
    ],
)
async def test_what_may_be_let_in_is_asked_for(
    headers: dict[str, str], change: dict[str, Any]
) -> None:
    """Another API key, other options, or a key by which there may be an answer."""
    edge = Edge()
    async with edge.client() as http:
        await http.post(PATH, json=BODY, headers=KEY)
        await http.post(PATH, json={**BODY, **change}, headers={**KEY, **headers})
    assert [one["messages"] for one in edge.asked] == [BODY["messages"]] * 2


async def test_another_question_changes_nothing() -> None:
    """Admission goes by the options alone, in whatever order they come."""
    edge = Edge()
    other = {"stream": True, "seed": 3, "user": "u", **dict(reversed(BODY.items()))}
    other["messages"] = [{"role": "user", "content": "What is 6 x 8?"}]
    async with edge.client() as http:
        await http.post(PATH, json=BODY, headers=KEY)
        assert (await http.post(PATH, json=other, headers=KEY)).status_code == 429
    assert len(edge.asked) == 1


@pytest.mark.parametrize("holds", [None, "0"])
async def test_what_does_not_hold_is_not_said_again(holds: str | None) -> None:
    """Each request is looked at."""
    edge = Edge()
    edge.holds = holds
    async with edge.client() as http:
        for _ in range(2):
            assert (await http.post(PATH, json=BODY, headers=KEY)).status_code == 429
    assert len(edge.asked) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"a": "\\ud800"}',
        b'"x"',
        b"[" * 5000,
        b'{"a": "' + b"a" * 70_000 + b'"}',
        b"\xff\xfe",
    ],
)
async def test_what_cannot_be_read_is_let_through(content: bytes) -> None:
    """Whether or not something is held already; and nothing of it is lost."""
    seen: list[bytes] = []

    async def edge(request: Request) -> Response:
        seen.append(await request.body())
        held = {HOLDS: "250", "retry-after-ms": "1700"}
        return JSONResponse({"error": {"code": "over_share"}}, 429, held)

    routes = [Route(PATH, edge, methods=["POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(Repeats)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        await http.post(PATH, json=BODY)
        for _ in range(2):
            await http.post(PATH, content=content)
    assert seen[1:] == [content, content]


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """The edge waits for it, as long as it is allowed to; what comes then isn't lost."""
    edge, heard = Edge(), []
    rest = asyncio.Event()
    first = b'{"messages": [], '

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())
        heard.append(await receive())
        start = {
            "type": "http.response.start",
            "status": 429,
            "headers": [(HOLDS.encode(), b"250"), (b"retry-after-ms", b"1700")],
        }
        await send(start)
        await send({"type": "http.response.body", "body": b'{"error": {"code": "over_share"}}'})

    parts = [
        {"type": "http.request", "body": first, "more_body": True},
        {"type": "http.request", "body": b'"model": "m"}', "more_body": False},
    ]

    async def asked(slow: bool) -> list[Message]:
        left, said = list(parts), list[Message]()

        async def receive() -> Message:
            if slow:
                await rest.wait()
            return left.pop(0)

        async def send(message: Message) -> None:
            said.append(message)

        scope = {"type": "http", "method": "POST", "path": PATH, "headers": []}
        await repeats(scope, receive, send)
        return said

    repeats = Repeats(app, now=lambda: edge.now)
    await asked(slow=False)
    asyncio.get_running_loop().call_later(0.7, rest.set)
    async with asyncio.timeout(5):
        await asked(slow=True)
    assert heard == parts * 2


async def test_what_is_remembered_is_bounded() -> None:
    """However many API keys are refused: the ones that find no place are asked about."""
    edge = Edge()
    async with edge.client() as http:
        for number in range(1100):
            await http.post(PATH, json=BODY, headers={"authorization": f"Bearer {number}"})
        asked = len(edge.asked)
        await http.post(PATH, json=BODY, headers={"authorization": "Bearer 1"})
        assert len(edge.asked) == asked
        await http.post(PATH, json=BODY, headers={"authorization": "Bearer 1090"})
        assert len(edge.asked) == asked + 1
        edge.now += 1.0
        for _ in range(2):
            await http.post(PATH, json=BODY, headers={"authorization": "Bearer 1090"})
        assert len(edge.asked) == asked + 2
