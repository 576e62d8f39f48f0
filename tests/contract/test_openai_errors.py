"""What can't be answered is refused in OpenAI's words, quickly, and without harm."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import BadRequestError, InternalServerError, NotFoundError

from planner.errors import (
    InvalidOption,
    LedgerUnavailable,
    PromptTooLong,
    UnknownBudget,
    WorkersUnavailable,
)
from services.api import Limits
from services.run import Reply
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    MODEL,
    ScriptedReasoner,
    ScriptedRun,
    Service,
    Stage,
    serving,
)

JSON = {"content-type": "application/json"}
NESTED = b'{"model": ' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}"


def error_of(response: Any) -> dict[str, Any]:
    """OpenAI's error object, of exactly that shape."""
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert len(error["message"]) < 500
    return error


BAD: dict[str, tuple[Any, int, str | None, str]] = {
    "no messages": ({**BODY, "messages": []}, 400, "messages", "invalid_value"),
    "messages missing": ({"model": MODEL}, 400, "messages", "missing_required_parameter"),
    "unknown model": ({**BODY, "model": "gpt-9"}, 404, "model", "model_not_found"),
    "n of a million": ({**BODY, "n": 1_000_000}, 400, "n", "invalid_value"),
    "negative budget": (
        {**BODY, "longthink": {"budget": {"completion_tokens": -1}}},
        400,
        "longthink.budget.completion_tokens",
        "invalid_value",
    ),
    "tools": ({**BODY, "tools": [{"type": "function"}]}, 400, "tools", "unsupported_parameter"),
    "unknown field": ({**BODY, "top_k": 5}, 400, "top_k", "unknown_parameter"),
    "picture": (
        {**BODY, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages[0].content[0].type",
        "invalid_value",
    ),
    "not a number": ({**BODY, "temperature": "NaN"}, 400, "temperature", "invalid_value"),
    "a list": ([1, 2], 400, None, "invalid_value"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
async def test_a_bad_request_is_refused_by_name(case: tuple[Any, int, str | None, str]) -> None:
    """The error names the field, and nothing is started."""
    body, status, param, code = case
    async with serving() as service:
        response = await service.http.post(CHAT, json=body)
    assert response.status_code == status
    error = error_of(response)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert service.reasoner.runs == []


async def _in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b'{"model": "\xff\xfe"}', 400, "invalid_json"),
        (b"\xff\xfe{\x00}\x00", 400, "invalid_json"),
        (b'{"model": ' + b"9" * 100_000 + b"}", 400, "invalid_json"),
        (b'{"messages": ' + b"[" * 500_000, 400, "invalid_json"),
        (NESTED, 413, "body_too_long"),
    ],
    ids=[
        "empty",
        "cut",
        "invalid UTF-8",
        "UTF-16",
        "long number",
        "deep",
        "10 MB nested",
    ],
)
async def test_a_body_that_is_no_json_is_refused(content: bytes, status: int, code: str) -> None:
    """However it is broken, it costs the service next to nothing, and the next request works."""
    async with serving() as service:
        await service.http.get("/health/live")
        began = time.process_time()
        response = await service.http.post(CHAT, content=content, headers=JSON)
        took = time.process_time() - began
        assert response.status_code == status
        assert error_of(response)["code"] == code
        assert (await service.http.post(CHAT, json=BODY)).status_code == 200
    assert took < 0.1


async def test_a_long_body_that_does_not_say_so_is_not_read_to_its_end() -> None:
    """Without a length in its headers, it is refused as soon as it is too long."""
    async with serving() as service:
        response = await service.http.post(CHAT, content=_in_pieces(NESTED), headers=JSON)
        assert response.status_code == 413
        assert error_of(response)["code"] == "body_too_long"
        assert (await service.http.post(CHAT, json=BODY)).status_code == 200


async def test_a_body_must_say_that_it_is_json() -> None:
    """What a browser sends to any address without asking is not taken for a request."""
    content = json.dumps(BODY).encode()
    async with serving() as service:
        for headers in ({}, {"content-type": "text/plain"}):
            response = await service.http.post(CHAT, content=content, headers=headers)
            assert response.status_code == 415
            assert error_of(response)["code"] == "unsupported_media_type"
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        response = await service.http.post(CHAT, content=content, headers=headers)
        assert response.status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """A client that stops in mid-body is told so after a while."""
    stage = Stage(limits=Limits(body_seconds=0.1))
    async with serving(stage=stage) as service:
        host, port = service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            "content-length: 1000\r\n\r\n{".encode()
        )
        async with asyncio.timeout(5):
            assert (await reader.readline()).split()[1] == b"408"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (InvalidOption("No strategy 'x'.", "longthink.strategy"), 400, "invalid_value"),
        (PromptTooLong("The prompt has 9,000 tokens."), 400, "context_length_exceeded"),
        (LedgerUnavailable("redis://:secret@host"), 503, "ledger_unavailable"),
        (WorkersUnavailable("replica 10.0.0.7 secret"), 503, "workers_unavailable"),
        (UnknownBudget("secret"), 500, "internal_error"),
        (ValueError("secret"), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_start_is_told(
    refusal: Exception, status: int, code: str, stream: bool
) -> None:
    """Whatever keeps a run from starting is an error response, for a stream too."""
    stage = Stage(reasoner=ScriptedReasoner(refusal=refusal))
    async with serving(stage=stage) as service:
        response = await service.http.post(CHAT, json={**BODY, "stream": stream})
    assert response.status_code == status
    error = error_of(response)
    assert error["code"] == code
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
    assert "x-should-retry" not in response.headers
    assert len(response.headers.get_list("x-request-id")) == 1


async def test_openais_client_waits_as_it_is_told_before_it_tries_again() -> None:
    """A 503 before anything was spent is worth another try, after the time in its header."""
    stage = Stage(
        reasoner=ScriptedReasoner(refusal=LedgerUnavailable("")), limits=Limits(retry_seconds=0.2)
    )

    async def recover() -> None:
        await asyncio.sleep(0.1)
        stage.reasoner.refusal = None

    async with serving(stage=stage, retries=1) as service:
        began = time.monotonic()
        recovery = asyncio.create_task(recover())
        reply = await service.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "?"}]
        )
        await recovery
    assert reply.choices[0].message.content
    assert time.monotonic() - began >= 0.2


async def test_openais_client_does_not_repeat_what_was_spent_in_vain() -> None:
    """A run that breaks is a 500 that the client leaves at one try."""

    async def breaking(run: ScriptedRun) -> Reply:
        raise RuntimeError("swordfish")

    async with serving(breaking, retries=2) as service:
        with pytest.raises(InternalServerError) as caught:
            await service.openai.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "?"}]
            )
    assert "swordfish" not in str(caught.value)
    assert len(service.reasoner.runs) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_cut_off_with_the_service_is_a_503(stream: bool) -> None:
    """Where a run is cancelled under its reply, the client is told, and nothing hangs."""

    async def cut_off(run: ScriptedRun) -> Reply:
        raise asyncio.CancelledError

    async with serving(cut_off) as service:
        response = await service.http.post(CHAT, json={**BODY, "stream": stream})
    assert response.status_code == (200 if stream else 503)
    assert '"code":"stopped"' in response.text


async def _ask(service: Service, **options: Any) -> Any:
    return await service.openai.chat.completions.create(
        messages=[{"role": "user", "content": "?"}], **options
    )


async def test_openais_client_raises_its_own_exceptions() -> None:
    """The error objects are what its exceptions are made from."""
    async with serving() as service:
        with pytest.raises(NotFoundError) as missing:
            await _ask(service, model="gpt-9")
        with pytest.raises(BadRequestError) as refused:
            await _ask(service, model=MODEL, logprobs=True)
    assert missing.value.code == "model_not_found"
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "logprobs")
    assert refused.value.request_id
