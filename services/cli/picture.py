"""The picture of one search in the terminal: candidates, votes and budget.

Fed with the events of its trace, each any number of times, and with the reply when it is there,
which has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from planner.answers import answer_of

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
_MOST_CELLS = 64
_MOST_VOTES = 8
_LONGEST_ANSWER = 24


@dataclass(frozen=True, slots=True)
class Seen:
    """A candidate, as far as it is known. `status` is `running` until it is told how it ended."""

    status: str = "running"
    answer: str | None = None
    score: float | None = None
    tokens: int = 0

    def cell(self, leader: str | None) -> Text:
        """The candidate in a few characters; one that votes for the leader is green."""
        if self.status != "done":
            return Text(f"· {self.status}", style="red" if self.status == "failed" else "dim")
        style = "green" if leader is not None and self.answer == leader else "yellow"
        score = "" if self.score is None else f" {self.score:.2f}"
        answer = _short(self.answer) if self.answer is not None else "no answer"
        return Text.assemble((f"• {answer}", style), (score, "dim"))


class Picture:
    """What can be shown so far."""

    def __init__(self) -> None:
        self._line = ""
        self._written = ""
        self._candidates: dict[str, Seen] = {}
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
        """Take an event of the trace."""
        data = event["data"]
        match event["kind"]:
            case "opened":
                self._planned = data["effort"]["candidates"]
                self._budget = _in_dollars(data["effort"]["budget"])
            case "asked":
                for task in data["tasks"]:
                    self._expected(task)
            case "told":
                self._told(data)
            case "standing":
                self._leader, self._votes = data["answer"], data["votes"]
                self._planned = data["planned"]
                self._spent = {**_in_dollars(data["spent"]), "seconds": event["seconds"]}
            case _:
                pass

    def finish(self, ours: Mapping[str, Any]) -> None:
        """Take the `longthink` object of the reply."""
        self._line = self._written = ""
        self._leader, self._votes = ours["answer"], ours["votes"]
        self._spent, self._budget = ours["spent"], ours["budget"]

    def __rich__(self) -> RenderableType:
        return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        if self._candidates:
            of = f" of {self._planned}" if self._planned else ""
            finished = sum(one.status == "done" for one in self._candidates.values())
            yield Text(f"Candidates  {finished}{of}", style="bold")
            yield Padding(Columns(list(self._cells()), padding=(0, 2)), (0, 0, 1, 2))
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

    def _cells(self) -> Iterator[Text]:
        seen = list(self._candidates.values())
        for one in seen[:_MOST_CELLS]:
            yield one.cell(self._leader)
        if len(seen) > _MOST_CELLS:
            yield Text(f"and {len(seen) - _MOST_CELLS} more", style="dim")

    def _expected(self, task: str) -> None:
        kind, _, path = task.partition(":")
        if kind == "expand":
            self._candidates.setdefault(path, Seen())

    def _told(self, data: Mapping[str, Any]) -> None:
        kind, _, path = data["id"].partition(":")
        made = data["candidate"]
        if kind == "grade" and made is not None and path in self._candidates:
            self._candidates[path] = replace(self._candidates[path], score=made["score"])
        if kind == "expand":
            self._candidates[path] = _seen(data["status"], made)


def result(content: str, ours: Mapping[str, Any], url: str) -> RenderableType:
    """The reply: the work, the answer, how sure it is, why it stopped, and where to read more."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    answer = "none was found" if ours["answer"] is None else str(ours["answer"])
    facts.add_row("Answer", Text(answer, style="bold green"))
    facts.add_row("Confidence", f"{ours['confidence']:.2f}")
    stopped = str(ours["stopped"])
    facts.add_row("Stopped", Text(f"{stopped}: {STOPPED.get(stopped, 'as it says')}"))
    facts.add_row("By", Text(f"{ours['strategy']}, chosen by {ours['selector']}"))
    for note in ours["notes"]:
        facts.add_row("Note", Text(note))
    facts.add_row("Trace", Text(f"{url}/v1/traces/{ours['trace_id']}", style="dim"))
    return Group(_work(content.strip() or "(nothing)"), facts)


def _work(text: str) -> Panel:
    return Panel(Text(text), title="Work", title_align="left")


def _seen(status: str, made: Mapping[str, Any] | None) -> Seen:
    if made is None:
        return Seen(status)
    ended = made["finish"] == "stop"
    answer = answer_of(made["text"], ended=ended)
    return Seen(status, answer, made["score"], len(made["token_ids"]))


def _bars(votes: Sequence[Mapping[str, Any]]) -> Table:
    """One bar an answer, as long as its share of the votes."""
    cast = sum(vote["count"] for vote in votes)
    bars = Table.grid(padding=(0, 2))
    for vote in votes[:_MOST_VOTES]:
        score = "" if vote["score"] is None else f"score {vote['score']:.2f}"
        bar = ProgressBar(
            total=cast, completed=vote["count"], width=30, finished_style="bar.complete"
        )
        bars.add_row(
            Text(_short(vote["answer"])), bar, str(vote["count"]), Text(score, style="dim")
        )
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


def _short(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= _LONGEST_ANSWER else line[: _LONGEST_ANSWER - 1] + "…"
