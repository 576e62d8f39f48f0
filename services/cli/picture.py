"""The picture of one search in the terminal: plan, tree or candidates, votes and budget.

Fed with the events of its trace in order, each any number of times, and with the reply when it is
there, which has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli.branches import Path, Seen, Step, drawn, plan, short

STOPPED: Mapping[str, str] = {
    "certain": "nothing still to come could have changed the answer",
    "confident": "the candidates agreed enough",
    "complete": "all that was planned is done",
    "budget": "the budget was used up",
    "deadline": "the time was up",
    "cancelled": "it was ended early",
}
"""What ended a search, in words."""

_SPENT = {
    "completion_tokens": "tokens generated",
    "reward_tokens": "tokens graded",
    "candidates": "candidates",
    "usd": "US dollars",
    "seconds": "seconds",
}
_MOST_VOTES = 8
_MOST_LINES = 30
"""Of a plan or a tree on a screen that is drawn again and again."""
_MOST_DECISIONS = 4


class Picture:
    """What can be shown so far. Trees are drawn on about `most_lines`."""

    def __init__(self, *, most_lines: int = _MOST_LINES) -> None:
        self.question = ""
        self.effort: Mapping[str, Any] = {}
        self.outcome: Mapping[str, Any] | None = None
        self._most_lines = most_lines
        self._seq = -1
        self._line = ""
        self._written = ""
        self._candidates: dict[Path, Seen] = {}
        self._steps: dict[Path, Step] = {}
        self._decisions: list[str] = []
        self._planned: int | None = None
        self._leader: str | None = None
        self._votes: Sequence[Mapping[str, Any]] = ()
        self._spent: Mapping[str, Any] = {}
        self._budget: Mapping[str, Any] = {}

    def write(self, text: str) -> None:
        """Take what was written of the answer since the last time."""
        self._written += text

    def say(self, line: str) -> None:
        """Take the newest line of progress."""
        self._line = line.strip()

    def see(self, event: Mapping[str, Any]) -> None:
        """Take an event of the trace, unless it was taken before."""
        if event["seq"] <= self._seq:
            return
        self._seq = event["seq"]
        take = {
            "opened": self._opened,
            "asked": self._asked,
            "told": self._told,
            "planned": self._plan,
            "step": self._step,
            "decided": self._decided,
            "standing": self._stands,
            "closed": self._closed,
        }.get(event["kind"])
        if take is not None:
            take(event["data"], event["seconds"])

    def finish(self, ours: Mapping[str, Any]) -> None:
        """Take the `longthink` object of the reply."""
        self._line = self._written = ""
        self._leader, self._votes = ours["answer"], ours["votes"]
        self._spent, self._budget = ours["spent"], ours["budget"]

    def __rich__(self) -> RenderableType:
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        if self._decisions:
            yield Text("\n".join(self._decisions[-_MOST_DECISIONS:]), style="dim")
        if self._steps:
            yield Text("Plan", style="bold")
            steps = [self._steps[path] for path in sorted(self._steps)]
            shown = plan(steps, self._candidates, self._most_lines, self._leader)
            yield Padding(shown, (0, 0, 1, 2))
        elif self._candidates:
            of = f" of {self._planned}" if self._planned else ""
            done = [one for one in self._candidates.values() if one.status == "done"]
            finished = sum(not one.partial for one in done)
            yield Text(f"Candidates  {finished}{of}", style="bold")
            shown = drawn(self._candidates, (), self._leader, self._most_lines)
            yield Padding(shown, (0, 0, 1, 2))
        if self._votes:
            yield Text("Votes", style="bold")
            yield Padding(_bars(self._votes), (0, 0, 1, 2))
        if self._spent:
            yield Text("Spent", style="bold")
            yield Padding(_meters(self._spent, self._budget), (0, 0, 1, 2))
        if self._written:
            yield _work(self._written)
        if self._line:
            yield Text(self._line, style="dim")

    def _opened(self, data: Mapping[str, Any], _seconds: float) -> None:
        self.effort = data["effort"]
        said = data.get("query", {}).get("messages", ())
        self.question = next((one["content"] for one in said[::-1] if one["role"] == "user"), "")
        self._planned = self.effort["candidates"]
        self._budget = _in_dollars(self.effort["budget"])

    def _stands(self, data: Mapping[str, Any], seconds: float) -> None:
        self._leader, self._votes = data["answer"], data["votes"]
        self._planned = data.get("planned", self._planned)
        self._spent = {**_in_dollars(data["spent"]), "seconds": seconds}

    def _plan(self, data: Mapping[str, Any], _seconds: float) -> None:
        """A plan takes the place of an earlier one for the same; one for a step stands below it."""
        self._decisions += [f"plan: {note}" for note in data.get("notes", ())]
        root = tuple(data["path"])
        outer = max((one for one in self._steps if root[: len(one)] == one), key=len, default=())
        for path in [one for one in self._steps if one[: len(outer)] == outer and one != outer]:
            del self._steps[path]
        for step in data["steps"]:
            path = tuple(step["path"])
            name = f"{self._steps[outer].id}.{step['id']}" if outer else step["id"]
            self._steps[path] = Step(name, path, step["question"], tuple(step["needs"]))

    def _step(self, data: Mapping[str, Any], _seconds: float) -> None:
        path = tuple(data["path"])
        step = self._steps.setdefault(path, Step(data["id"], path))
        step.state, step.told = data["state"], data
        step.question = data["question"]

    def _decided(self, data: Mapping[str, Any], _seconds: float) -> None:
        self._decisions.append(f"{data['what']}: {data['why']}")

    def _closed(self, data: Mapping[str, Any], seconds: float) -> None:
        self.outcome = data["outcome"]
        self._stands({**data["outcome"], "spent": data["spent"]}, seconds)

    def _asked(self, data: Mapping[str, Any], _seconds: float) -> None:
        for task in data["tasks"]:
            kind, _, name = task.partition(":")
            if kind == "expand":
                self._candidates.setdefault(_path(name), Seen())

    def _told(self, data: Mapping[str, Any], _seconds: float) -> None:
        kind, _, name = data["id"].partition(":")
        made = data["candidate"]
        if kind == "grade" and made is not None and (path := _path(name)) in self._candidates:
            self._candidates[path] = self._candidates[path].graded(made["score"])
        if kind == "expand":
            self._candidates[_path(name)] = Seen.told(data["status"], made)


def result(content: str, ours: Mapping[str, Any], url: str) -> RenderableType:
    """The reply: the work, the answer, how sure it is, why it stopped, and where to read more."""
    rows = facts(ours)
    rows.add_row("Trace", Text(f"{url}/v1/traces/{ours['trace_id']}", style="dim"))
    return Group(_work(content.strip() or "(nothing)"), rows)


def facts(ours: Mapping[str, Any]) -> Table:
    """The answer, how sure it is, and why the search stopped there."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column()
    answer = "none was found" if ours["answer"] is None else str(ours["answer"])
    rows.add_row("Answer", Text(answer, style="bold green"))
    rows.add_row("Confidence", f"{ours['confidence']:.2f}")
    stopped = str(ours["stopped"])
    rows.add_row("Stopped", Text(f"{stopped}: {STOPPED.get(stopped, 'as it says')}"))
    rows.add_row("By", Text(f"{ours['strategy']}, chosen by {ours['selector']}"))
    for note in ours["notes"]:
        rows.add_row("Note", Text(note))
    return rows


def _work(text: str) -> Panel:
    return Panel(Text(text), title="Work", title_align="left")


def _bars(votes: Sequence[Mapping[str, Any]]) -> Table:
    """One bar an answer, as long as its share of the votes."""
    cast = sum(vote["count"] for vote in votes)
    bars = Table.grid(padding=(0, 2))
    for vote in votes[:_MOST_VOTES]:
        score = "" if vote["score"] is None else f"score {vote['score']:.2f}"
        bar = ProgressBar(
            total=cast, completed=vote["count"], width=30, finished_style="bar.complete"
        )
        bars.add_row(Text(short(vote["answer"])), bar, str(vote["count"]), Text(score, style="dim"))
    if len(votes) > _MOST_VOTES:
        rest = votes[_MOST_VOTES:]
        told = f"{len(rest)} other answers"
        bars.add_row(Text(told, style="dim"), "", str(sum(vote["count"] for vote in rest)), "")
    return bars


def _meters(spent: Mapping[str, Any], budget: Mapping[str, Any]) -> Table:
    """What was spent in each dimension, against its limit where it has one."""
    meters = Table.grid(padding=(0, 2))
    for key, name in _SPENT.items():
        limit = budget.get("deadline_seconds" if key == "seconds" else key)
        amount = spent.get(key, 0)
        bar: RenderableType = ""
        if limit:
            bar = ProgressBar(
                total=limit, completed=min(amount, limit), width=30, finished_style="bar.complete"
            )
        of = "" if limit is None else f" of {_amount(key, limit)}"
        meters.add_row(name, bar, f"{_amount(key, amount)}{of}")
    return meters


def _amount(key: str, value: float) -> str:
    match key:
        case "usd":
            return f"{value:.6f}"
        case "seconds":
            return f"{value:.1f}"
        case _:
            return f"{value:,}"


def _in_dollars(counted: Mapping[str, Any]) -> dict[str, Any]:
    """The same with money in dollars, as the reply has it."""
    micro = counted.get("micro_usd")
    return {**counted, "usd": None if micro is None else micro / 1_000_000}


def _path(name: str) -> Path:
    """The path in a task's id."""
    return tuple(map(int, name.split(".")))
