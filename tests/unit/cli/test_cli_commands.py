"""The command as a whole: help, serve, demo, and a service of its own for a single question."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.search import STRATEGIES
from planner.selection import SELECTORS
from planner.stopping import ALWAYS, RULES
from services.settings import describe

Run = Callable[..., tuple[int, str, str]]

PATIENCE = 100.0
"""Seconds for a process to start and end; one does, even on a machine with too much to do."""

OWN_SERVICE = """
import os, signal, sys, threading
from services import app

# Ignored from the start where the tests themselves run in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Service:
    url = os.environ["FAKE_URL"]

    @classmethod
    def start(cls, settings, *, tell, logs):
        print("noise of a library", flush=True)
        tell(f"Engines: {settings.generator.replicas} on port {settings.service.port}")
        # As Ray does.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        return cls()

    def wait(self, replace=None):
        print("waiting", flush=True)
        threading.Event().wait()

    def stop(self):
        os.write(2, b"service stopped\\n")

app.Service = Service
from services.cli import main
main()
"""


def started(url: str, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with a service that only pretends to start."""
    return subprocess.Popen(
        [sys.executable, "-c", OWN_SERVICE, *arguments],
        env={**os.environ, "FAKE_URL": url, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_lists_the_commands(longthink: Run) -> None:
    """Help names every command with what it does."""
    code, out, _ = longthink("--help")
    assert code == 0
    for command in ("serve", "ask", "eval", "load", "replay", "demo", "doctor"):
        assert command in out


def test_help_comes_at_once() -> None:
    """Importing the command brings nothing heavy: not pydantic, not httpx, not Ray."""
    asked = "import services.cli, sys; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert {"pydantic", "httpx", "ray", "torch", "vllm", "openai", "rich.live"}.isdisjoint(
        said.stdout.split()
    )


@pytest.mark.parametrize(
    ("command", "strategies", "selectors"),
    [
        ("ask", list(STRATEGIES), list(SELECTORS)),
        (
            "replay",
            ["single", "majority", "best_of_n"],
            ["majority", "weighted", "best", "confidence"],
        ),
    ],
)
def test_help_names_all_there_is_to_choose_from(
    longthink: Run, command: str, strategies: list[str], selectors: list[str]
) -> None:
    """Every strategy, selector and stopping rule that the command takes is in its help."""
    _, out, _ = longthink(command, "--help")
    flat = " ".join(out.replace("│", " ").split())
    for names in (strategies, selectors, [*ALWAYS, *RULES]):
        assert ": " + ", ".join(names) in flat


def test_help_of_serve_explains_every_setting(longthink: Run) -> None:
    """Each setting is listed with its default, its variable and what it means."""
    _, out, _ = longthink("serve", "--help")
    flat = " ".join(out.split())
    for one in describe():
        assert f"{one.name} = {one.default} {one.env} {one.help}" in flat
    assert "efforts.WORD.strategy" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_stops_cleanly(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM stop the service and end the command with 0."""
    command = started("http://127.0.0.1:8123", "serve", "--generators", "2", "--port", "8123")
    with command:
        assert command.stdout is not None
        said = "".join(iter(command.stdout.readline, "waiting\n"))
        command.send_signal(number)
        out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, err
    assert "Engines: 2 on port 8123" in said
    assert "longthink answers at http://127.0.0.1:8123/v1 as the model longthink-reference" in said
    assert "curl http://127.0.0.1:8123/v1/chat/completions" in said
    assert "Stopped." in out
    assert err.count("service stopped") == 1


def test_the_example_of_serve_is_a_request(fake_service: Any) -> None:
    """The curl line that serve prints can be pasted: its body is JSON that the service takes."""
    command = started(fake_service.url, "serve")
    with command:
        assert command.stdout is not None
        said = "".join(iter(command.stdout.readline, "waiting\n"))
        command.terminate()
        command.communicate(timeout=PATIENCE)
    body = said.partition("-d '")[2].partition("}'")[0] + "}"
    assert json.loads(body)["model"] == "longthink-reference"


def test_a_question_without_a_service_starts_one(fake_service: Any) -> None:
    """Without --url a service is started and stopped again, and standard output stays clean."""
    with started(fake_service.url, "ask", "1 + 1?", "--json") as command:
        out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, err
    assert json.loads(out)["longthink"]["answer"] == "2"
    assert "noise of a library" in err
    assert "Engines: 1 on port 0" in err
    assert err.count("service stopped") == 1


def test_a_service_is_stopped_however_the_command_ends(fake_service: Any) -> None:
    """A question that fails stops the service that was started for it, too."""
    fake_service.script = lambda body: (400, {}, {"error": {"message": "No."}})
    with started(fake_service.url, "ask", "1 + 1?") as command:
        out, err = command.communicate(timeout=PATIENCE)
    assert (command.returncode, out) == (1, "")
    assert "longthink: No." in err
    assert err.count("service stopped") == 1


def test_a_question_that_is_interrupted_stops_the_service(fake_service: Any) -> None:
    """SIGTERM in the middle of a search ends the command and what it started."""

    def slow(_: dict[str, Any]) -> str:
        time.sleep(3)
        return "#### 2"

    fake_service.script = slow
    with started(fake_service.url, "ask", "1 + 1?", "--json") as command:
        until = time.monotonic() + PATIENCE
        while not fake_service.asked and time.monotonic() < until:
            time.sleep(0.02)
        command.send_signal(signal.SIGTERM)
        out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode != 0
    assert out == ""
    assert "Traceback" not in err
    assert err.count("service stopped") == 1


def test_an_evaluation_that_is_interrupted_says_how_to_go_on(
    fake_service: Any, tmp_path: Path
) -> None:
    """Ctrl-C keeps the replies there are, and the command says that it can be repeated."""

    def slow(body: dict[str, Any]) -> str:
        time.sleep(0 if len(fake_service.asked) < 4 else 3)
        return "#### 2"

    fake_service.script = slow
    arguments = ("--split", "easy", "--out", str(tmp_path), "--concurrency", "1")
    with started(fake_service.url, "eval", *arguments, "--strategies", "single") as command:
        until = time.monotonic() + PATIENCE
        while len(fake_service.asked) < 4 and time.monotonic() < until:
            time.sleep(0.02)
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=PATIENCE)
    assert (command.returncode, out) == (130, "")
    assert "the same command goes on from here" in err
    assert err.count("service stopped") == 1
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3


def test_wrong_settings_are_told_before_anything_starts(longthink: Run, tmp_path: Path) -> None:
    """Each thing that is wrong in the settings has a line, and nothing is started."""
    profile = tmp_path / "my.toml"
    profile.write_text("[generator]\nmax_num_seq = 1\n")
    arguments = ("--profile", str(profile), "--set", "service.prot=1")
    for command in (("serve",), ("ask", "Why?"), ("doctor",)):
        code, _, err = longthink(*command, *arguments)
        assert code == 1
        assert f"{profile}: generator.max_num_seq: no such setting" in err
        assert "did you mean service.port?" in err


def test_other_machines_are_kept_out(longthink: Run) -> None:
    """Serving where others can connect is refused while there are no keys."""
    code, _, err = longthink("serve", "--host", "0.0.0.0")  # noqa: S104 - refused
    assert code == 1
    assert "Set service.keys = true" in err


def test_demo_asks_two_questions_once_and_with_many(fake_service: Any, longthink: Run) -> None:
    """One for 16 candidates within a budget, one as the service thinks best; all are judged."""
    code, out, _ = longthink("demo", "--url", fake_service.url)
    assert code == 0
    once, many, compound, decided = fake_service.asked
    assert once["longthink"] == compound["longthink"] == {"strategy": "single"}
    assert many["longthink"]["budget"]["candidates"] == 16
    limits = {"usd", "deadline_seconds"}
    assert set(many["longthink"]["budget"]) == {"candidates", "completion_tokens", *limits}
    assert decided["reasoning_effort"] == "high"
    assert set(decided["longthink"]) == {"budget"}
    assert set(decided["longthink"]["budget"]) == limits
    assert once["messages"] == many["messages"] != compound["messages"] == decided["messages"]
    assert "Question" in out
    assert out.count("which is wrong") == 4
    assert "16 of 16" in out
    assert "longthink serve" in out


def test_demo_without_an_answer_fails(fake_service: Any, longthink: Run) -> None:
    """A demonstration that came to no answer ends with 1."""
    fake_service.script = lambda body: "I don't know"
    code, out, _ = longthink("demo", "--url", fake_service.url)
    assert code == 1
    assert "The service gave no answer." in out


def test_the_address_can_be_a_variable(
    fake_service: Any, longthink: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LONGTHINK_URL stands for --url, with or without /v1 at its end."""
    monkeypatch.setenv("LONGTHINK_URL", f"{fake_service.url}/v1/")
    code, out, _ = longthink("ask", "Why?", "--json")
    assert code == 0
    assert json.loads(out)["longthink"]["answer"] == "2"
