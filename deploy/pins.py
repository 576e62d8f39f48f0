"""Keeps the pinned requirements honest. `check` fails unless all of this holds:

- every pin is installed, in that version, and nothing else is but pip and longthink;
- whatever a pinned distribution asks for is pinned in a version it accepts, or stands in
  left-out.toml with the reason why it may be missing or differ;
- every pin is there because longthink or its tools ask for it, directly or through another;
- left-out.toml names nothing that isn't asked for or that is pinned all the same;
- what our packages import stands in pyproject.toml itself, not only behind something that does.

`unpinned` lists what is installed without being pinned.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path
from typing import TypeAlias

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RUNTIME = HERE / "requirements-cpu.txt"
DEV = HERE / "requirements-dev.txt"
LEFT_OUT = HERE / "left-out.toml"
PROJECT = ROOT / "pyproject.toml"
PACKAGES = ("planner", "services", "workers")
OWN = "longthink"
UNPINNED_ON_PURPOSE = frozenset({OWN, "pip"})
"""longthink is the project; pip comes with the environment's Python."""

Versions: TypeAlias = dict[str, str]
"""Distribution name, normalised -> version."""


def main(arguments: list[str]) -> int:
    pins = {**read_pins(RUNTIME), **read_pins(DEV)}
    installed = installed_versions()
    match arguments:
        case ["unpinned"]:
            print(*sorted(unpinned(pins, installed)), sep="\n")
            return 0
        case ["check"]:
            return report(list(faults(pins, installed)), len(pins))
        case _:
            print("usage: pins.py check | unpinned", file=sys.stderr)
            return 2


def read_pins(path: Path) -> Versions:
    """The pins of one requirements file, each on a line of its own as name==version.

    Raises ValueError for any other line that isn't a comment.
    """
    pins: Versions = {}
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, _, version = text.partition("==")
        if not version or normalised(name) in pins:
            raise ValueError(f"{path.name}: one name==version a line and no name twice: {line!r}")
        pins[normalised(name)] = version
    return pins


def normalised(name: str) -> str:
    """A distribution's name as all its spellings are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_versions() -> Versions:
    return {normalised(found.name): found.version for found in distributions()}


def unpinned(pins: Versions, installed: Versions) -> set[str]:
    return installed.keys() - pins.keys() - UNPINNED_ON_PURPOSE


def report(found: list[str], pins: int) -> int:
    """Print what is wrong, or that nothing is; return the exit status."""
    for fault in found:
        print(f"pins: {fault}")
    if not found:
        print(f"pins: {pins} pins, all installed, asked for and satisfied")
    return 1 if found else 0


def faults(pins: Versions, installed: Versions) -> Iterator[str]:
    """What is wrong, a sentence each.

    What is asked for is read from what is installed, so that it's judged only once that agrees.
    """
    disagreements = list(installation_faults(pins, installed))
    yield from disagreements
    if not disagreements:
        yield from requirement_faults(pins)
        yield from import_faults()


def installation_faults(pins: Versions, installed: Versions) -> Iterator[str]:
    """Where what is installed isn't what is pinned; `make setup` mends it."""
    for name in sorted(unpinned(pins, installed)):
        yield f"{name} {installed[name]} is installed and not pinned (`make setup` removes it)"
    for name, version in sorted(pins.items()):
        if installed.get(name) != version:
            yield f"{name}=={version} is pinned, {installed.get(name, 'nothing')} is installed"


def requirement_faults(pins: Versions) -> Iterator[str]:
    """What the pinned distributions ask for and don't get, and what nobody asks for."""
    excused = {normalised(name) for name in tomllib.loads(LEFT_OUT.read_text())["left-out"]}
    wants = asked_for(pins)
    unmet = [want for want in wants if not want.met_by(pins)]
    for want in unmet:
        if want.name not in excused:
            pinned = pins.get(want.name, "missing")
            yield f"{want.by} asks for {want.requirement}, which is {pinned}"
    for name in sorted(pins.keys() - {want.name for want in wants}):
        yield f"{name} is pinned, and nothing asks for it"
    for name in sorted(excused - {want.name for want in unmet}):
        yield f"{name} stands in {LEFT_OUT.name} without need: nothing that's pinned lacks it"


@dataclass(frozen=True, slots=True)
class Want:
    """What one distribution (or the project itself) asks for."""

    by: str
    requirement: Requirement

    @property
    def name(self) -> str:
        return normalised(self.requirement.name)

    def met_by(self, pins: Versions) -> bool:
        pinned = pins.get(self.name)
        return pinned is not None and self.requirement.specifier.contains(pinned, prereleases=True)


def asked_for(pins: Versions) -> list[Want]:
    """All that the project asks for, and all that what it gets asks for in turn."""
    wants = project_wants()
    walked: set[tuple[str, frozenset[str]]] = set()
    for want in wants:  # grows while it is walked
        step = (want.name, frozenset(want.requirement.extras))
        if want.name in pins and step not in walked:
            walked.add(step)
            wants.extend(distribution_wants(*step))
    return wants


def project_wants() -> list[Want]:
    """What pyproject.toml asks for in the environment that `make setup` builds."""
    project = tomllib.loads(PROJECT.read_text())
    asked: list[str] = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["cpu"],
        *project["project"]["optional-dependencies"]["load"],
        *project["dependency-groups"]["dev"],
    ]
    return [Want(PROJECT.name, Requirement(text)) for text in asked]


def distribution_wants(name: str, extras: frozenset[str]) -> list[Want]:
    """What an installed distribution asks for on this machine, with these of its extras."""
    wants = [Want(name, Requirement(text)) for text in requires(name) or ()]
    return [want for want in wants if applies(want.requirement, extras)]


def import_faults() -> Iterator[str]:
    """The third-party modules that our packages import without asking for their distribution."""
    asked = {want.name for want in project_wants()}
    carriers = packages_distributions()
    for module, importer in sorted(imported_modules().items()):
        names = {normalised(name) for name in carriers.get(module, ())}
        if not names & (asked | {OWN}):
            yield f"{importer} imports {module}, and {PROJECT.name} doesn't ask for it"


def imported_modules() -> dict[str, str]:
    """Each top-level module from outside that our packages import -> a file that does."""
    inside = {*sys.stdlib_module_names, *PACKAGES}
    found: dict[str, str] = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for module in top_level_imports(ast.parse(path.read_text())) - inside:
            found.setdefault(module, str(path.relative_to(ROOT)))
    return found


def top_level_imports(tree: ast.AST) -> set[str]:
    """The first parts of the names of all modules that this source imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
