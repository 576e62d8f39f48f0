"""`longthink ask` against a real HTTP server with scripted replies."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from services.cli.asking import Asked, show

Run = Callable[..., tuple[int, str, str]]

BUSY: dict[str, Any] = {"error": {"message": "No worker can take the request at present."}}


def test_json_prints_the_reply_and_nothing_else(fake_service: Any, longthink: Run) -> None:
    """With --json standard output is the reply as the service sent it."""
    code, out, err = longthink("ask", "1 + 1?", "--json", "--url", fake_service.url)
    assert code == 0
    assert json.loads(out)["longthink"]["answer"] == "2"
    assert json.loads(out)["choices"][0]["message"]["content"] == "1 + 1 = 2\n#### 2"
    assert err == ""


def test_options_become_the_request(fake_service: Any, longthink: Run) -> None:
    """Every option stands in the request under its name in the API, and nothing else does."""
    options = {
        "--strategy": "majority",
        "--selector": "weighted",
        "--stop": "beta:0.9",
        "--candidates": "16",
        "--effort": "high",
        "--budget-tokens": "4000",
        "--budget-reward-tokens": "5000",
        "--budget-usd": "0.25",
        "--deadline": "2.5",
        "--seed": "3",
        "--temperature": "0.5",
        "--max-tokens": "200",
    }
    flat = [word for pair in options.items() for word in pair]
    longthink("ask", "Why?", *flat, "--json", "--url", fake_service.url)
    assert fake_service.asked == [
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": "Why?"}],
            "temperature": 0.5,
            "max_tokens": 200,
            "seed": 3,
            "reasoning_effort": "high",
            "longthink": {
                "strategy": "majority",
                "selector": "weighted",
                "stop": "beta:0.9",
                "budget": {
                    "candidates": 16,
                    "completion_tokens": 4000,
                    "reward_tokens": 5000,
                    "usd": 0.25,
                    "deadline_seconds": 2.5,
                },
            },
        }
    ]


def test_nothing_said_is_nothing_sent(fake_service: Any, longthink: Run) -> None:
    """Without options the request leaves everything to the service."""
    longthink("ask", "Why?", "--json", "--url", fake_service.url)
    message = {"role": "user", "content": "Why?"}
    assert fake_service.asked == [{"model": "scripted", "messages": [message]}]


def test_the_work_the_votes_and_the_budget_are_shown(fake_service: Any, longthink: Run) -> None:
    """A person sees the work, the answer, the candidates, the votes, and spent of budget."""
    arguments = ("--candidates", "4", "--budget-tokens", "1000", "--url", fake_service.url)
    code, out, err = longthink("ask", "1 + 1?", *arguments)
    assert code == 0
    for shown in (
        "1 + 1 = 2",
        "#### 2",
        "Confidence  0.88",
        "complete: all that was planned is done",
        "40 of 1,000",
        "4 of 4",
        "0.000123",
        "score 0.75",
        "99",
        "• 2 0.75",
        "· failed",
        "/v1/traces/abc",
    ):
        assert shown in out
    assert "1 of 2" in err


def test_on_a_terminal_the_search_is_drawn(fake_service: Any) -> None:
    """A terminal gets a picture that is drawn over, and the reply below it."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    answered = asyncio.run(show(fake_service.url, Asked("1 + 1?", candidates=2), screen))
    assert answered.ours["answer"] == "2"
    drawn = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[" in drawn
    assert "Candidates" in drawn


def test_the_question_can_come_from_standard_input(
    fake_service: Any, longthink: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dash stands for what is piped in."""
    monkeypatch.setattr("sys.stdin", io.StringIO("From a pipe?"))
    longthink("ask", "-", "--json", "--url", fake_service.url)
    assert fake_service.asked[0]["messages"][0]["content"] == "From a pipe?"


def test_a_refusal_is_told_in_the_services_words(fake_service: Any, longthink: Run) -> None:
    """What the service objects to is the message, on standard error, with exit code 1."""
    refusal = {"error": {"message": "strategy must be one of single, not 'x'."}}
    fake_service.script = lambda body: (400, {}, refusal)
    for way in ((), ("--json",)):
        code, out, err = longthink("ask", "Why?", *way, "--url", fake_service.url)
        assert (code, out) == (1, "")
        assert err == "longthink: strategy must be one of single, not 'x'.\n"


def test_no_service_is_told_with_its_address(longthink: Run) -> None:
    """A service that can't be reached is named."""
    code, out, err = longthink("ask", "Why?", "--url", "http://127.0.0.1:9")
    assert (code, out) == (1, "")
    assert "The service at http://127.0.0.1:9 doesn't answer" in err


@pytest.mark.parametrize(
    "models",
    [{"data": []}, {"hello": "world"}, b"<html>", [1]],
    ids=["none", "other", "html", "list"],
)
def test_another_server_is_told_from_longthink(
    fake_service: Any, longthink: Run, models: Any
) -> None:
    """A server that speaks something else is asked about."""
    fake_service.models = models
    code, _, err = longthink("ask", "Why?", "--url", fake_service.url)
    assert code == 1
    assert "is it longthink?" in err


def test_a_busy_service_is_asked_again(fake_service: Any, longthink: Run) -> None:
    """A 503 with a time to wait is no failure yet."""
    busy = (503, {"retry-after-ms": "1"}, BUSY)
    fake_service.script = lambda body: busy if len(fake_service.asked) < 3 else "#### 5"
    code, out, _ = longthink("ask", "Why?", "--json", "--url", fake_service.url)
    assert code == 0
    assert json.loads(out)["longthink"]["answer"] == "5"
    assert len(fake_service.asked) == 3


def test_a_service_that_stays_busy_is_left(fake_service: Any, longthink: Run) -> None:
    """After a few times the refusal counts."""
    fake_service.script = lambda body: (503, {"retry-after-ms": "1"}, BUSY)
    code, _, err = longthink("ask", "Why?", "--json", "--url", fake_service.url)
    assert code == 1
    assert BUSY["error"]["message"] in err
    assert len(fake_service.asked) == 6


def test_what_was_spent_is_not_spent_again(fake_service: Any, longthink: Run) -> None:
    """A failure after compute was spent isn't tried again."""
    fake_service.script = lambda body: (503, {"x-should-retry": "false"}, BUSY)
    longthink("ask", "Why?", "--json", "--url", fake_service.url)
    assert len(fake_service.asked) == 1


def test_a_stream_that_breaks_off_is_an_error(fake_service: Any, longthink: Run) -> None:
    """Half a reply isn't shown as if it were whole."""
    fake_service.breaks_off = True
    code, out, err = longthink("ask", "Why?", "--url", fake_service.url)
    assert (code, out) == (1, "")
    assert "The connection broke before the reply was complete." in err


def test_without_a_trace_the_answer_is_still_shown(fake_service: Any, longthink: Run) -> None:
    """A trace that can't be read costs the picture of the candidates only."""
    fake_service.traces = False
    code, out, _ = longthink("ask", "Why?", "--url", fake_service.url)
    assert code == 0
    assert "Confidence  0.88" in out


def test_an_unanswered_question_says_so(fake_service: Any, longthink: Run) -> None:
    """Where no candidate had an answer, that is what is said."""
    fake_service.script = lambda body: "I don't know"
    _, out, _ = longthink("ask", "Why?", "--url", fake_service.url)
    assert "none was found" in out
