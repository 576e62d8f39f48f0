"""Builds the project's environment, `.venv`, from the pinned requirements beside this file.

Runs on a bare Python 3.11 with nothing installed, so it imports the standard library only. What
always holds:

- an environment that carries the stamp was set up wholly, from the pins as they are now;
- one whose set-up was interrupted carries the mark of it, and is built anew by the next run;
- torch is the CPU build, never the one for CUDA that the same version number also names.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "longthink-setup.stamp"
UNFINISHED = VENV / "longthink-setup.unfinished"
RUNTIME = ROOT / "deploy" / "requirements-cpu.txt"
REQUIREMENTS = (RUNTIME, ROOT / "deploy" / "requirements-dev.txt")

# The one address in this project from which something is installed. The general registries carry
# torch's CUDA build under the plain version number and no CPU build, so where pip finds no
# `+cpu` by itself (a mirror or a folder of wheels in its configuration would have one), PyTorch's
# own index is the only place left. Behind a mirror of it, set the variable to the mirror.
TORCH_INDEX = os.environ.get("LONGTHINK_TORCH_INDEX", "https://download.pytorch.org/whl/cpu")

# No resolver: it would bring CUDA builds in (see the `cpu` extra in pyproject.toml). Every pin has
# a wheel, so nothing is ever compiled, and a release without one fails at once and by name; but for
# one that was only ever published as its source, which is four small files of Python.
INSTALL = ("install", "--no-deps", "--only-binary", ":all:", "--no-binary", "AdaptiveConsistency")


class SetupFailed(Exception):
    """Set-up can't go on; the message says what its reader can do."""


def main() -> int:
    try:
        require_host()
        with alone():
            set_up()
    except SetupFailed as failure:
        say(f"failed: {failure}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: run `make setup` again and it starts over")
        return 130
    return 0


def require_host() -> None:
    """Raise SetupFailed on a Python or a system that the pinned wheels aren't made for."""
    if sys.version_info[:2] != (3, 11):
        raise SetupFailed(
            f"this is Python {sys.version_info[0]}.{sys.version_info[1]} ({sys.executable}), and "
            "the pinned requirements are for Python 3.11: install it, or name it with "
            "`make setup PYTHON=/path/to/python3.11`"
        )
    if not sys.platform.startswith("linux"):
        raise SetupFailed(f"the pinned wheels are for Linux, and this is {sys.platform}")


@contextmanager
def alone() -> Iterator[None]:
    """Hold off every other set-up of this checkout until this one has ended."""
    folder = os.open(ROOT / "deploy", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def set_up() -> None:
    """Bring the environment to the state that the pins describe, and stamp it."""
    wanted = fingerprint()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return
    began = time.monotonic()
    if UNFINISHED.exists() or not works():
        create()
    UNFINISHED.touch()
    STAMP.unlink(missing_ok=True)
    say("2/4 torch, CPU build")
    install_torch()
    say("3/4 pinned requirements (some 600 MB to fetch the first time; minutes)")
    pip(*INSTALL, *(f"--requirement={path}" for path in REQUIREMENTS))
    remove_unpinned()
    say("4/4 longthink itself")
    pip("install", "--no-deps", "--no-build-isolation", "--quiet", "--editable", str(ROOT))
    STAMP.write_text(wanted)
    UNFINISHED.unlink()
    say(f"done in {time.monotonic() - began:.0f} s: {VENV.name}/bin/longthink")


def fingerprint() -> str:
    """A digest of all that the environment depends on: it changes when set-up has work to do."""
    digest = hashlib.sha256(f"{sys.version_info[:2]}\n{VENV}\n".encode())
    for path in (*REQUIREMENTS, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest() + "\n"


def works() -> bool:
    """Whether the environment is there, is of this Python release, and has a pip that starts."""
    if not PYTHON.exists():
        return False
    probe = "import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))"
    ran = subprocess.run([str(PYTHON), "-c", probe], capture_output=True, check=False, cwd=ROOT)
    return ran.returncode == 0


def create() -> None:
    """Make the environment anew, marked as unfinished from its first moment."""
    say(f"1/4 a new environment in {VENV.name}")
    # In an activated environment this may be the very Python that is about to be removed.
    python = os.path.realpath(sys.executable)
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    UNFINISHED.touch()
    made = subprocess.run([python, "-m", "venv", str(VENV)], check=False)
    if made.returncode != 0:
        raise SetupFailed(
            "Python could not make a virtual environment; on Debian and Ubuntu its venv module is "
            "a package of its own: apt-get install python3.11-venv"
        )


def install_torch() -> None:
    """Install the pinned CPU build of torch, from wherever pip sees it, else from TORCH_INDEX."""
    pin = torch_pin()
    if pip(*INSTALL, pin, check=False) == 0:
        return
    say(f"that is no harm: {pin} isn't where pip looks first, so it comes from {TORCH_INDEX}")
    pip(*INSTALL, f"--index-url={TORCH_INDEX}", pin)


def torch_pin() -> str:
    """The line of the requirements that pins torch, such as "torch==2.13.0+cpu"."""
    found = re.search(r"^torch==\S+\+cpu$", RUNTIME.read_text(), re.MULTILINE)
    if found is None:
        raise SetupFailed(f"{RUNTIME} has to pin torch to a CPU build, as in torch==2.13.0+cpu")
    return found[0]


def remove_unpinned() -> None:
    """Uninstall what an earlier list brought and the present one doesn't name."""
    script = str(ROOT / "deploy" / "pins.py")
    listed = subprocess.run(
        [str(PYTHON), script, "unpinned"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    if names := listed.stdout.split():
        pip("uninstall", "--yes", *names)


def pip(*arguments: str, check: bool = True) -> int:
    """Run the environment's own pip, its output shown as it comes, and return its exit status.

    Raises SetupFailed on any but 0, unless `check` is off.
    """
    command = [str(PYTHON), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    # Settings that people have for their own account, and that an environment can't be built with.
    environment = os.environ | {"PIP_USER": "0", "PIP_NO_DEPS": "0", "PYTHONNOUSERSITE": "1"}
    status = subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode
    if check and status != 0:
        raise SetupFailed(
            f"`pip {' '.join(arguments)}` ended with {status}; its own message stands above. "
            "Run `make setup` again once that is mended"
        )
    return status


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
