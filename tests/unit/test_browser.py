"""Which browser the tests of the web page take, and what is done where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import browser

STARTS = "#!/bin/sh\necho '<html></html>'\n"
STUB = "#!/bin/sh\necho 'install me from elsewhere' >&2\nexit 1\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH; nobody is root, and Playwright's browser isn't there."""
    monkeypatch.setenv("PATH", f"{tmp_path}")
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return tmp_path


def program(folder: Path, name: str, script: str) -> str:
    file = folder / name
    file.write_text(script)
    file.chmod(0o755)
    return str(file)


def test_a_browser_that_does_not_start_is_passed_over(path: Path) -> None:
    """A stub that only tells how to get a browser isn't one; the next on the PATH is."""
    program(path, "chromium", STUB)
    wanted = program(path, "google-chrome", STARTS)
    assert browser.find() == wanted


def test_what_is_there_is_not_fetched_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a browser that starts, nothing is run but the browser."""
    wanted = program(path, "chromium", STARTS)
    monkeypatch.setattr(browser, "run", lambda *_: pytest.fail("something was fetched"))
    assert browser.main() == 0
    assert capsys.readouterr().out == f"browser: {wanted}\n"


def test_where_none_can_be_had_it_is_said_what_to_install(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Playwright is asked, Debian only by root; then the person is."""
    tried: list[tuple[str, ...]] = []
    monkeypatch.setattr(browser, "find", lambda: None)

    def run(*command: str) -> bool:
        tried.append(command)
        return False

    monkeypatch.setattr(browser, "run", run)
    assert browser.main() == 1
    assert [command[1:] for command in tried] == [("-m", "playwright", "install", "chromium")]
    assert "apt-get install chromium" in capsys.readouterr().out


def test_root_gets_debians_package_where_playwright_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package lists are brought up to date first."""
    program(path, "apt-get", STUB)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    tried: list[tuple[str, ...]] = []

    def run(*command: str) -> bool:
        tried.append(command)
        if command[:2] == ("apt-get", "install"):
            program(path, "chromium", STARTS)
        return command[0] == "apt-get"

    monkeypatch.setattr(browser, "run", run)
    assert browser.main() == 0
    assert [command[:2] for command in tried[1:]] == [("apt-get", "update"), ("apt-get", "install")]
