"""Finds the browser that the tests of the web page need, or installs one.

`make test` runs it in the project's environment; nothing else needs a browser. What it finds it
has started once. It looks on the PATH and among Playwright's own; where there is none that starts,
it has Playwright fetch one, and where that fails and it is root on Debian or the like, it installs
Debian's package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a browser needs to run in a container and to leave the network alone.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
)
HELP = """\
browser: there is no Chromium that starts, and none could be installed. The tests of the web page
browser: need one: install it (on Debian: apt-get install chromium), so that `chromium`,
browser: `chromium-browser` or `google-chrome` is on the PATH, and run this again."""
_START_SECONDS = 90
_FETCH_SECONDS = 600


def main() -> int:
    browser = find() or fetched() or packaged()
    print(HELP if browser is None else f"browser: {browser}", flush=True)
    return 1 if browser is None else 0


def find() -> str | None:
    """A browser of this machine that starts, or None."""
    return next(filter(starts, candidates()), None)


def candidates() -> Iterator[str]:
    """The browsers that there may be."""
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            yield found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    if Path(own).exists():
        yield own


def starts(browser: str) -> bool:
    """Whether it starts: some lack a library, and some only tell how to get another."""
    command = [browser, "--headless", *FLAGS, "--dump-dom", "about:blank"]
    try:
        ran = subprocess.run(command, check=False, capture_output=True, timeout=_START_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0 and b"<html" in ran.stdout


def fetched() -> str | None:
    """Playwright's own browser, fetched; None where it can't be had or doesn't start here."""
    say("none that starts, so Playwright fetches one")
    return find() if run(sys.executable, "-m", "playwright", "install", "chromium") else None


def packaged() -> str | None:
    """Debian's package, installed; None where that can't be done."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    say("that is no harm: Debian has a package of it")
    install = ("apt-get", "install", "-y", "--no-install-recommends", "chromium")
    return find() if run("apt-get", "update") and run(*install) else None


def run(*command: str) -> bool:
    """Whether a command ended well; its output is shown as it comes."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        ran = subprocess.run(command, check=False, env=environment, timeout=_FETCH_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"{command[0]} didn't end well: {error}")
        return False
    return ran.returncode == 0


def say(text: str) -> None:
    print(f"browser: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
