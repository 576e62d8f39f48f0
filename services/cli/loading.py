"""Runs a load with a progress bar, keeps what came of it, and prints the figures."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from planner.errors import LongthinkError
from services.cli.soaking import Sight, at_rest, growths
from services.client import KEY, Client
from services.evaluation.judging import refereed
from services.loading.figures import Figures, Report, Spread, report
from services.loading.growth import Soak, soak
from services.loading.picture import draw, draw_soak
from services.loading.plan import Plan
from services.loading.sent import End, Sent
from services.loading.watch import Sample, Watch

_WIDE = 120
_TOO_LATE = 0.1
"""Seconds; a generator that is later than this isn't to be trusted with milliseconds."""


_SAMPLES, _LEAST_SECONDS, _MOST_SECONDS = 120, 1.0, 30.0
"""A soak looks at the service so often, but at least and at most so many seconds apart."""
_WARM_SECONDS, _WARM_USERS = 5.0, 4
"""What is asked before a soak takes its first look."""


class LoadError(LongthinkError):
    """The load could not be made."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load that is over. `interrupted` says that it ended before its time."""

    plan: Plan
    model: str
    records: tuple[Sent, ...]
    report: Report
    interrupted: bool
    soak: Soak | None = None
    samples: tuple[Sample, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing failed, overspent, grew or was left behind."""
        return self.report.sound and not (self.soak and self.soak.amiss())

    def publish(self, folder: Path) -> None:
        """Write the report, a line for each request, and the picture."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(one.in_json()) + "\n" for one in self.records)
        (folder / "requests.jsonl").write_text(lines, encoding="utf-8")
        (folder / "report.json").write_text(in_json(self) + "\n", encoding="utf-8")
        if self.samples:
            lines = "".join(json.dumps(asdict(one)) + "\n" for one in self.samples)
            (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
            draw_soak(self.samples, folder, title=f"{_asked(self.plan)}, {self.model}")
        seconds, timely = self.report.seconds, self.plan.timely
        draw(self.records, seconds, timely, folder, title=f"{_asked(self.plan)}, {self.model}")


class Swarm:
    """The process that makes the load, while inside, and what it has said so far."""

    def __init__(self, plan: Plan, url: str, model: str) -> None:
        """Raises LoadError where there is no locust."""
        if find_spec("locust") is None:
            raise LoadError(
                "Load is made by locust, which isn't installed: `make setup` brings it, and so "
                "does `pip install locust`."
            )
        self.records: list[Sent] = []
        self.seconds = 0.0
        self.flying = 0
        self.interrupted = False
        self.plan = plan
        self._order = {"plan": plan.in_json(), "url": url, "model": model}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.loading"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who tell it when to end
        )
        return self

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def __exit__(self, *exception: object) -> None:
        with self._process:
            self.kill()

    def lines(self) -> Iterator[None]:
        """Hand it the plan, and come back after each line it says until it ends.

        Raises LoadError.
        """
        with cast("TextIO", self._process.stdin) as order:
            json.dump(self._order, order)
        yield from self._heard()
        if self._process.wait() != 0 and not self.interrupted:
            raise LoadError("The process that makes the load has failed; it said why above.")

    def interrupt(self) -> None:
        """End the load now: what is on the way counts as unfinished."""
        self.interrupted = True
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process, whatever it still had to say."""
        self._process.kill()

    def _heard(self) -> Iterator[None]:
        for line in cast("TextIO", self._process.stdout):
            said: dict[str, Any] = json.loads(line)
            if "sent" in said:
                self.records.append(Sent.from_json(said["sent"]))
            else:
                self.seconds, self.flying = said["seconds"], said["flying"]
            yield


def run(plan: Plan, url: str, console: Console, sight: Sight | None = None) -> Loaded:
    """Make the load and sum it up. Ctrl-C ends it with what there is.

    With `sight` the service is looked at meanwhile. Raises LoadError, or ServiceError where no
    service is there.
    """
    model = asyncio.run(_model(plan, url))
    soaked: tuple[Soak, tuple[Sample, ...]] | None = None
    if sight is None:
        swarm = _made(Swarm(plan, url, model), console)
    else:
        with closing(_watch(plan, url, sight)) as watch:
            swarm, soaked = _watched(watch, plan, url, model, console)
    records = judge(swarm.records)
    seconds = min(plan.seconds, swarm.seconds) if swarm.interrupted else plan.seconds
    told = report(records, seconds, plan.timely, interrupted=swarm.interrupted)
    return Loaded(plan, model, records, told, swarm.interrupted, *(soaked or ()))


def _made(swarm: Swarm, console: Console, watch: Watch | None = None) -> Swarm:
    """A load that is over."""
    with (
        swarm,
        _ended_by_signals(swarm, console),
        _progress(console, swarm.plan, swarm) as show_progress,
    ):
        if watch is not None:
            watch.others.add(swarm.pid)
        for _ in swarm.lines():
            show_progress()
            if watch is not None:
                watch.follow(swarm.seconds, swarm.plan.seconds)
    return swarm


def _watch(plan: Plan, url: str, sight: Sight) -> Watch:
    """It asks with the key in the environment, an operator's where tenants may not see metrics."""
    every = min(_MOST_SECONDS, max(_LEAST_SECONDS, plan.seconds / _SAMPLES))
    secret = os.environ.get(KEY) or (plan.keys[0].secret if plan.keys else None)
    return Watch(url, every=every, root=sight.root, redis_url=sight.redis_url, secret=secret)


def _watched(
    watch: Watch, plan: Plan, url: str, model: str, console: Console
) -> tuple[Swarm, tuple[Soak, tuple[Sample, ...]]]:
    """The load, and what it did to the service: looked at in rest, too, before and after.

    Something is asked before the first look: whatever is only started then is no growth.
    """
    warm = replace(plan, seconds=_WARM_SECONDS, rate=None, users=_WARM_USERS, bursts=())
    if _made(Swarm(warm, url, model), console, watch).interrupted:
        raise KeyboardInterrupt
    before = watch.settled()
    with watch:
        swarm = _made(Swarm(plan, url, model), console, watch)
    after = watch.settled()
    return swarm, (soak(watch.samples, before, after, swarm.seconds), tuple(watch.samples))


@contextmanager
def _ended_by_signals(swarm: Swarm, console: Console) -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM end the load, and a second one whatever it still does.

    They raise nothing: an exception at any moment could be lost, or leave a request untold of.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        if swarm.interrupted:
            swarm.kill()
            return
        swarm.interrupt()
        console.print("Interrupted: here is what there is so far.", style="yellow")

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def judge(records: list[Sent]) -> tuple[Sent, ...]:
    """The same in the order of their places, with what was answered judged."""
    judged = []
    with refereed() as (same, _):
        for one in sorted(records, key=lambda one: one.place):
            if one.end is End.ANSWERED:
                right = one.answer is not None and same(one.answer, one.gold)
                judged.append(one.judged(right))
            else:
                judged.append(one)
    return tuple(judged)


async def _model(plan: Plan, url: str) -> str:
    key = plan.keys[0].secret if plan.keys else None
    async with Client(url, key=key) as client:
        return await client.model()


def in_json(loaded: Loaded) -> str:
    """The report as JSON, with what was asked and no key."""
    said = {
        "plan": loaded.plan.described(),
        "model": loaded.model,
        **asdict(loaded.report),
    }
    if loaded.soak is not None:
        shares = [{**asdict(one), "share": one.share} for one in loaded.soak.growths]
        amiss, orphans = loaded.soak.amiss(), loaded.soak.orphans
        said["soak"] = {
            **asdict(loaded.soak),
            "growths": shares,
            "orphans": orphans,
            "amiss": amiss,
        }
    return json.dumps(said, indent=2)


def show(loaded: Loaded, folder: Path, console: Console) -> None:
    """Print the figures as tables."""
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    told = loaded.report
    console.print(f"{_asked(loaded.plan)}, for {told.seconds:.0f} s, {loaded.model}", style="bold")
    console.print(_counts(told))
    console.print(_latencies(told))
    if loaded.soak is not None:
        console.print(growths(loaded.soak))
        for line in at_rest(loaded.soak):
            console.print(line, soft_wrap=True, highlight=False)
    for line in _amiss(loaded):
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    line = f"Figures, every request and the picture: {folder}"
    console.print(line, style="dim", soft_wrap=True, highlight=False)


def _rows(told: Report) -> Iterator[tuple[str, Figures]]:
    yield "all", told.together
    for kind, rows in told.groups.items():
        for row in rows:
            yield f"{kind} {row.name}", row


def _counts(told: Report) -> Table:
    table = _table(
        *("sent", "answered", "refused", "failed", "hung\nup", "un-\nfinished"),
        *("answers\na second", "good\na second", "accuracy", "tokens a\nright one"),
        "over-\nspent",
    )
    for name, one in _rows(told):
        counts = (one.sent, one.answered, one.refused, one.failed, one.hung_up, one.unfinished)
        table.add_row(
            name,
            *(f"{count:,}" for count in counts),
            f"{one.throughput:.2f}",
            f"{one.goodput:.2f}",
            "" if one.accuracy is None else f"{one.accuracy:.1%}",
            "" if one.tokens_per_right is None else f"{one.tokens_per_right:,.0f}",
            f"{one.overspent:,}",
        )
    return table


def _latencies(told: Report) -> Table:
    table = _table("p50 s", "p90", "p95", "p99", "max", "first sign\np50 s", "p95", "p99")
    for name, one in _rows(told):
        first = one.first_progress
        firsts = ("", "", "") if first is None else (first.p50, first.p95, first.p99)
        table.add_row(name, *_spread(one.latency), *(_seconds(each) for each in firsts))
    for refusal in told.refusals:
        name = f"refused {refusal.status} {refusal.code or ''}".strip()
        table.add_row(name, *_spread(refusal.latency), "", "", "")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _spread(spread: Spread | None) -> tuple[str, ...]:
    if spread is None:
        return ("",) * 5
    values = (spread.p50, spread.p90, spread.p95, spread.p99, spread.max)
    return tuple(_seconds(one) for one in values)


def _seconds(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


def _amiss(loaded: Loaded) -> Iterator[str]:
    """Lines about what an operator should look into, and what makes the figures doubtful."""
    told = loaded.report
    for one in told.refusals:
        if one.without_retry_after:
            kind = f"{one.status} {one.code or ''}".strip()
            yield f"{one.without_retry_after} of {one.count} refusals ({kind}) had no Retry-After."
    for reason, count in told.failures[:5]:
        yield f"Failed: {count} x {reason}"
    if told.unanswered:
        yield (
            f"Never answered: {told.unanswered} requests still waited when the load was over. They "
            "count in the latencies with what they had waited until then."
        )
    for spent in told.overspent[:5]:
        yield f"Overspent: {spent}"
    yield from () if loaded.soak is None else loaded.soak.amiss()
    late = told.together.seconds_late
    if late is not None and late.p99 > _TOO_LATE:
        yield (
            f"1% of the requests were sent {late.p99:.2f} s late or more: this machine is too busy "
            "to make this load, and what it measured is too slow by that."
        )


def _asked(plan: Plan) -> str:
    """The load in a few words."""
    if plan.rate is None:
        return f"{plan.users} users"
    bursts = [
        f"{one.factor:g}x for {one.seconds:g} s" + (f" in {one.every:g}" if one.every else "")
        for one in plan.bursts
    ]
    return ", ".join([f"{plan.rate:g} requests a second", *bursts])


@contextmanager
def _progress(console: Console, plan: Plan, swarm: Swarm) -> Iterator[Any]:
    """A bar over time, and counts; calling what it gives brings it up to date."""
    columns = (
        TextColumn("asking"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("asking", total=plan.seconds, told="")
        ends: Counter[str] = Counter()
        seen = 0

        def update() -> None:
            nonlocal seen
            ends.update(one.end.value for one in swarm.records[seen:])
            seen = len(swarm.records)
            parts = [
                f"{swarm.flying} on the way",
                *(f"{ends[end]} {end}" for end in End if ends[end]),
            ]
            bar.update(task, completed=min(plan.seconds, swarm.seconds), told=", ".join(parts))

        yield update
