"""A service to talk to that needs no engine: a real HTTP server with scripted replies.

Its replies have the shape of longthink's, with one candidate for each that was asked for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import pytest

from services.cli import main

Scripted: TypeAlias = Callable[[dict[str, Any]], str | tuple[int, dict[str, str], Any]]
"""From the request to the text of the solution, or to a status, headers and a body."""

MODEL = "scripted"


class FakeService:
    """What was asked of it, and what it answers. `script` may be replaced at any time."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.script: Scripted = lambda body: "1 + 1 = 2\n#### 2"
        self.models: Any = {"object": "list", "data": [{"id": MODEL}]}
        self.traces = True
        self.told: dict[str, Any] = {}
        self.lost = ""
        self.breaks_off = False
        self.lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.get(self)

            def do_POST(self) -> None:
                with suppress(ConnectionError):  # a client that was interrupted
                    service.post(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def get(self, request: BaseHTTPRequestHandler) -> None:
        if request.path == "/v1/models":
            send(request, 200, {}, self.models)
        elif request.path.startswith("/v1/traces/") and self.traces:
            self.tell(request, *request.path.split("/")[3:])
        else:
            send(request, 404, {}, {"error": {"message": "There is no such trace."}})

    def tell(self, request: BaseHTTPRequestHandler, trace_id: str, events: str = "") -> None:
        """The trace as a whole, or as a stream of its events."""
        told = {**trace(trace_id), **self.told}
        if not events:
            send(request, 200, {}, told)
            return
        lines = [
            f"id: {one['seq']}\nevent: {one['kind']}\ndata: {raw(one)}" for one in told["events"]
        ]
        if self.lost:
            lines.append(f'event: lost\ndata: {{"reason": "{self.lost}"}}')
        stream = "".join(f": nothing new\n\n{line}\n\n" for line in lines)
        send(request, 200, {"content-type": "text/event-stream"}, stream.encode())

    def post(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["content-length"])))
        with self.lock:
            self.asked.append(body)
            scripted = self.script(body)
        if isinstance(scripted, tuple):
            send(request, *scripted)
        elif body.get("stream"):
            self.stream(request, body, scripted)
        else:
            send(request, 200, {}, reply(body, scripted))

    def stream(self, request: BaseHTTPRequestHandler, body: dict[str, Any], text: str) -> None:
        request.send_response(200)
        request.send_header("content-type", "text/event-stream")
        request.send_header("connection", "close")
        request.end_headers()
        whole = reply(body, text)
        message = whole["choices"][0]["message"]["content"]
        deltas = ({"role": "assistant"}, {"reasoning_content": "1 of 2\n"}, {"content": message})
        chunks: list[Any] = [chunk(delta) for delta in deltas]
        chunks.append({**chunk({}), "longthink": whole["longthink"]})
        chunks.append({**chunk({}), "choices": [], "usage": whole["usage"]})
        request.wfile.write(b": thinking\n\n")
        for one in chunks[: 2 if self.breaks_off else None]:
            request.wfile.write(f"data: {json.dumps(one)}\n\n".encode())
        if not self.breaks_off:
            request.wfile.write(b"data: [DONE]\n\n")
        request.close_connection = True


def raw(event: Any) -> str:
    """JSON as the service writes it, with letters as they are."""
    return json.dumps(event, ensure_ascii=False)


def send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: Any) -> None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("content-length", str(len(text)))
    request.end_headers()
    request.wfile.write(text)


def reply(body: dict[str, Any], text: str) -> dict[str, Any]:
    """A reply whose candidates, of 10 tokens, all wrote `text`, but for one of several."""
    ours = body.get("longthink", {})
    budget = ours.get("budget", {})
    count = budget.get("candidates", 1)
    count = min(count, budget.get("completion_tokens", 10 * count) // 10)
    answer = text.rpartition("#### ")[2] if "#### " in text else None
    votes = [] if answer is None else [{"answer": answer, "count": count, "score": 0.75}]
    if count > 1 and votes:
        votes = [{**votes[0], "count": count - 1}, {"answer": "99", "count": 1, "score": None}]
    return {
        "id": "chatcmpl-abc",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 10 * count, "total_tokens": 15},
        "longthink": {
            "answer": answer,
            "confidence": 0.875,
            "votes": votes,
            "silent": 0,
            "stopped": "complete",
            "strategy": ours.get("strategy", "majority"),
            "selector": ours.get("selector", "majority"),
            "stop": ours.get("stop", "certain"),
            "spent": {
                "completion_tokens": 10 * count,
                "prompt_tokens": 5,
                "reward_tokens": 7 * count,
                "candidates": count,
                "usd": 0.000123,
                "seconds": 0.5,
                "unreported_calls": 0,
            },
            "budget": {
                "completion_tokens": ours.get("budget", {}).get("completion_tokens"),
                "reward_tokens": None,
                "candidates": count,
                "deadline_seconds": None,
                "usd": None,
            },
            "notes": [],
            "trace_id": "abc",
        },
    }


def chunk(delta: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {"id": "chatcmpl-abc", "object": "chat.completion.chunk", "choices": [choice]}


def trace(trace_id: str) -> dict[str, Any]:
    """A search of two candidates: one was graded, one failed."""
    made = {
        "path": [0],
        "text": "1 + 1 = 2\n#### 2",
        "token_ids": [1, 2, 3],
        "finish": "stop",
        "score": None,
    }
    budget = {
        "completion_tokens": 400,
        "reward_tokens": None,
        "candidates": 2,
        "micro_usd": None,
        "deadline_seconds": None,
    }
    told = {"status": "done", "candidate": made}
    spent = {"completion_tokens": 10, "reward_tokens": 7, "candidates": 1, "micro_usd": 12}
    events = [
        ("opened", {"effort": {"candidates": 2, "budget": budget}}),
        ("asked", {"tasks": ["expand:0", "expand:1"]}),
        ("told", {"id": "expand:0", **told}),
        ("asked", {"tasks": ["grade:0"]}),
        ("told", {"id": "grade:0", **told, "candidate": {**made, "score": 0.75}}),
        ("told", {"id": "expand:1", "status": "failed", "candidate": None}),
        (
            "standing",
            {
                "finished": 1,
                "planned": 2,
                "running": 0,
                "answer": "2",
                "confidence": 1.0,
                "votes": [{"answer": "2", "count": 1, "score": 0.75}],
                "spent": spent,
            },
        ),
    ]
    return {
        "id": trace_id,
        "events": [
            {"seq": seq, "seconds": seq / 10, "kind": kind, "data": data}
            for seq, (kind, data) in enumerate(events)
        ],
    }


@pytest.fixture
def fake_service() -> Iterator[FakeService]:
    """A scripted service that runs for the test."""
    service = FakeService()
    yield service
    service.stop()


@pytest.fixture
def longthink(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command with these arguments: its exit code, standard output and error."""
    # Help and tables are as wide as the terminal is said to be.
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["longthink", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0, out, err

    return run
