"""The commands against the service itself: its real edge, driver, ledger and traces.

Only the engines are scripted: they write an answer that is right in most candidates.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from structlog.testing import capture_logs

from planner.domain import Prices
from services.api import build
from services.budget import RedisLedger, connect
from services.cli import main
from services.cli.asking import Asked, show
from services.client import Client
from services.driver import Manner
from services.reasoning import Reasoner
from services.trace import TraceStore
from workers.fake import FakePool, Script, Verdict
from workers.messages import Generate, Grade

Run = Callable[..., tuple[int, str]]

MODEL = "scripted"


def write(call: Generate) -> Script:
    """Three of four candidates say 42, the fourth 41; each takes a while."""
    right = (call.seed or 0) % 4 != 0
    return Script(f"6 * 7 = 42\n#### {42 if right else 41}", seconds=0.2)


def judge(call: Grade) -> Verdict:
    """What says 42 at its end is good."""
    return Verdict((0.9 if "42" in call.steps[-1] else 0.1,) * len(call.steps))


@pytest.fixture
def url(redis_url: str) -> Iterator[str]:
    """A running service, in a thread of its own."""

    @asynccontextmanager
    async def application() -> AsyncIterator[FastAPI]:
        async with connect(redis_url) as redis:
            traces = TraceStore(redis)
            reasoner = Reasoner(
                FakePool(write, judge),
                RedisLedger(redis),
                traces,
                Manner(step_delimiter="\n", prices=Prices(0.1, 0.2, 0.1), progress_seconds=0.02),
            )

            async def ready() -> dict[str, bool]:
                return {"engines": True}

            async def metrics() -> list[tuple[str, str]]:
                return []

            yield build(
                reasoner, model_name=MODEL, ready=ready, traces=traces, engine_metrics=metrics
            )
            await reasoner.drain(1)

    # Its log would be in what the commands print: otherwise it is a process of its own.
    with capture_logs(), socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config("", lifespan="off", log_config=None))

        async def serve() -> None:
            async with application() as app:
                server.config.app = app
                await server.serve(sockets=[listener])

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def longthink(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str) -> Run:
    """Runs the command against the service: its exit code and standard output."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["longthink", *arguments, "--url", url])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return code if isinstance(code, int) else 0, capfd.readouterr().out

    return run


def test_a_question_is_answered_before_ones_eyes(url: str) -> None:
    """On a terminal the candidates are seen running, then finished, with votes and the budget."""
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    asked = Asked(
        "What is 6 x 7?",
        strategy="majority",
        selector="weighted",
        stop="none",
        candidates=12,
        completion_tokens=2000,
        seed=1,
    )
    answered = asyncio.run(show(url, asked, screen))
    drawn = screen.file.getvalue()  # type: ignore[attr-defined]
    assert answered.ours["answer"] == "42"
    assert "· running" in drawn
    last = drawn[drawn.rindex("Candidates") :]
    assert last.startswith("Candidates  12 of 12")
    assert "• 42 0.90" in last
    assert "• 41 0.10" in last
    assert "· running" not in last
    assert "of 2,000" in last
    assert "12 of 12" in last
    assert "majority, chosen by weighted" in last


def test_the_whole_reply_is_printed(longthink: Run) -> None:
    """--json prints the reply of the service, with its trace's id."""
    code, out = longthink("ask", "What is 6 x 7?", "--candidates", "8", "--seed", "1", "--json")
    reply = json.loads(out)
    assert code == 0
    assert reply["longthink"]["answer"] == "42"
    assert reply["id"] == f"chatcmpl-{reply['longthink']['trace_id']}"


def test_a_budget_is_kept_and_shown(longthink: Run) -> None:
    """With tokens for a few candidates only, the search stops and says why."""
    arguments = ("--strategy", "majority", "--stop", "none", "--candidates", "16")
    code, out = longthink("ask", "What is 6 x 7?", *arguments, "--budget-tokens", "100")
    assert code == 0
    assert "budget: the budget was used up" in out
    assert "of 100" in out


def test_an_evaluation_measures_the_service(longthink: Run, tmp_path: Path) -> None:
    """Votes beat single samples, pass@k both, and tokens are the service's own count."""
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "What is 6 x 7?", "answer": 42}\n' * 24)
    code, out = longthink(
        *("eval", "--file", str(path), "--strategies", "single,majority@none,best_of_n@none"),
        *("--candidates", "8", "--out", str(tmp_path / "out"), "--format", "json"),
    )
    single, majority, best = json.loads(out)
    assert code == 0
    assert single["queries"] == majority["queries"] == 24
    assert single["accuracy"] == single["pass_at_k"] < 1
    assert majority["pass_at_k"] == best["accuracy"] == 1
    assert majority["accuracy"] > single["accuracy"]
    assert majority["mean_completion_tokens"] == 8 * single["mean_completion_tokens"]
    assert single["mean_reward_tokens"] == 0
    assert best["mean_reward_tokens"] > 0


def test_the_demonstration_runs(longthink: Run) -> None:
    """The demonstration ends with 0 once the service gave an answer, right or wrong."""
    code, out = longthink("demo")
    assert code == 0
    assert "Candidates  16 of 16" in out
    assert "of 4,000" in out


async def test_a_search_that_nobody_waits_for_ends(url: str) -> None:
    """Leaving a stream early ends the search: the picture's reader takes nothing with it."""
    body = Asked("What is 6 x 7?", candidates=64, stop="none").body(MODEL)
    async with Client(url) as client:
        stream = client.stream(body)
        first = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        trace_id = first["id"].removeprefix("chatcmpl-")
        async with asyncio.timeout(10):
            while not (closed := await _closed(client, trace_id)):
                await asyncio.sleep(0.05)
    assert closed[0]["data"]["outcome"]["stopped"] == "cancelled"


async def _closed(client: Client, trace_id: str) -> list[dict[str, Any]]:
    """The event that closed a trace, if it has come."""
    events = (await client.trace(trace_id))["events"]
    return [event for event in events if event["kind"] == "closed"]
