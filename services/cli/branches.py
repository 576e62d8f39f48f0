"""A plan and its trees in the terminal: every step with its candidates, every branch with its own.

What is too large for the lines there are is drawn in part, and says how much is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from planner.answers import answer_of

Path: TypeAlias = tuple[int, ...]

_MOST_CELLS = 64
_LONGEST_ANSWER = 24
_MARKS = {"begun": ("◐", "cyan"), "again": ("↻", "cyan"), "ended": ("●", "green")}


@dataclass(frozen=True, slots=True)
class Seen:
    """A candidate, as far as it is known. `status` is `running` until it is told how it ended."""

    status: str = "running"
    answer: str | None = None
    score: float | None = None
    tokens: int = 0
    partial: bool = False

    @classmethod
    def told(cls, status: str, made: Mapping[str, Any] | None) -> Seen:
        """What is known of a candidate once its end was told."""
        if made is None:
            return cls(status)
        answer = answer_of(made["text"], ended=made["finish"] == "stop")
        partial = made["finish"] == "step"
        return cls(status, answer, made["score"], len(made["token_ids"]), partial)

    def cell(self, leader: str | None) -> Text:
        """The candidate in a few characters; one that votes for the leader is green."""
        if self.status != "done":
            return Text(f"· {self.status}", style="red" if self.status == "failed" else "dim")
        style = "green" if leader is not None and self.answer == leader else "yellow"
        score = "" if self.score is None else f" {self.score:.2f}"
        if self.partial:
            return Text.assemble(("◦", "dim"), (score or " …", "dim"))
        answer = short(self.answer) if self.answer is not None else "no answer"
        return Text.assemble((f"• {answer}", style), (score, "dim"))

    def graded(self, score: float | None) -> Seen:
        """The same with its score."""
        return replace(self, score=score)


@dataclass(slots=True)
class Step:
    """A step of a plan, as far as it is known."""

    id: str
    path: Path
    question: str = ""
    needs: Sequence[str] = ()
    state: str = "waiting"
    told: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> Text:
        """The step in a line or two."""
        mark, style = _MARKS.get(self.state, ("○", "dim"))
        words = Text.assemble((f"{mark} ", style), (self.id, "bold"))
        if self.state == "ended":
            answer = self.told.get("answer")
            words.append(
                f"  {'no answer' if answer is None else short(str(answer))}", style="green"
            )
            if (sure := self.told.get("confidence")) is not None:
                words.append(f" {sure:.2f}", style="dim")
        elif self.state != "waiting":
            words.append("  tried again" if self.state == "again" else "  begun", style="dim")
        if tokens := self.told.get("tokens"):
            share = self.told.get("share")
            words.append(f"  {tokens:,}{f' of {share:,}' if share else ''} tokens", style="dim")
        if self.needs:
            words.append(f"  needs {', '.join(self.needs)}", style="dim")
        return words.append(f"\n{' '.join(self.question.split())}", style="dim")


def drawn(
    candidates: Mapping[Path, Seen], prefix: Path, leader: str | None, most: int
) -> RenderableType:
    """The candidates below `prefix`: as cells where none continues another, else as a tree."""
    below = {path: seen for path, seen in candidates.items() if path[: len(prefix)] == prefix}
    if all(len(path) <= len(prefix) + 1 for path in below):
        return Columns(list(_cells(list(below.values()), leader)), padding=(0, 2))
    tree = Tree("", hide_root=True, guide_style="dim")
    _grow(tree, sorted(below), below, leader, most)
    return tree


def plan(
    steps: Sequence[Step], candidates: Mapping[Path, Seen], most: int, leader: str | None
) -> RenderableType:
    """Each step with what was sampled for it below; the leader is that of the last one."""
    each = max(4, most // max(1, len(steps)))
    parts: list[RenderableType] = []
    for step in steps:
        tree = Tree(step.line(), guide_style="dim")
        below = {p: seen for p, seen in candidates.items() if p[: len(step.path)] == step.path}
        if below:
            wins = step.told.get("answer") if step.state == "ended" else leader
            tree.add(drawn(below, step.path, None if wins is None else str(wins), each))
        parts.append(tree)
    return Group(*parts)


def short(answer: str) -> str:
    """An answer in a line of a few letters."""
    line = " ".join(answer.split())
    return line if len(line) <= _LONGEST_ANSWER else line[: _LONGEST_ANSWER - 1] + "…"


def _cells(seen: Sequence[Seen], leader: str | None) -> Iterator[Text]:
    for one in seen[:_MOST_CELLS]:
        yield one.cell(leader)
    if len(seen) > _MOST_CELLS:
        yield Text(f"and {len(seen) - _MOST_CELLS} more", style="dim")


def _grow(
    tree: Tree, paths: Sequence[Path], seen: Mapping[Path, Seen], leader: str | None, most: int
) -> None:
    """Hang each candidate below the nearest one above it, as many as there are lines for."""
    branches: dict[Path, Tree] = {}
    for path in paths[:most]:
        above = next(
            (
                branches[path[:end]]
                for end in range(len(path) - 1, -1, -1)
                if path[:end] in branches
            ),
            tree,
        )
        name = Text(".".join(map(str, path)) + " ", style="dim")
        branches[path] = above.add(name + seen[path].cell(leader))
    if len(paths) > most:
        tree.add(Text(f"and {len(paths) - most} more", style="dim"))
