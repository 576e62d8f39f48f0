"""`longthink load` before it loads anything: what it refuses to do, and says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from services.cli import loading
from tests.unit.cli.conftest import FakeService

Run: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--rate", "1", "--users", "2"), "not both"),
        (("--users", "2", "--burst", "3x1"), "--burst needs --rate"),
        (("--efforts", "huge"), "none, minimal, low"),
        (("--split", "harder"), "easy, hard, compound"),
        (("--url", "http://127.0.0.1:9"), "doesn't answer"),
        (("--soak", "--url", "http://127.0.0.1:9", "--pid", "4194305"), "no such process"),
    ],
)
def test_what_cannot_be_done_is_refused(
    longthink: Run, options: tuple[str, ...], told: str
) -> None:
    """Before a process is started, with exit code 1 and a sentence."""
    code, out, err = longthink("load", *options)
    assert (code, out) == (1, "")
    assert told in err


def test_without_locust_it_says_what_to_install(
    longthink: Run, fake_service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A user who installed the service alone can still get it."""

    def none(*_: Any) -> None:
        """Find nothing."""

    monkeypatch.setattr(loading, "find_spec", none)
    code, _, err = longthink("load", "--url", fake_service.url, "--out", str(tmp_path))
    assert code == 1
    assert "pip install locust" in err
    assert not list(tmp_path.iterdir())
