"""Runs an evaluation with a progress bar, and prints what it came to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from planner.calibration import Calibration
from services.budget import connect
from services.calibration import CalibrationError, CalibrationStore, save
from services.client import Client
from services.evaluation import results, run, sections
from services.evaluation.calibrating import Fitted, calibrate
from services.evaluation.comparison import Round, rounds
from services.evaluation.plan import Plan
from services.evaluation.report import markdown
from services.evaluation.results import Record
from services.evaluation.spreads import Spread, spreads
from services.evaluation.summary import Row, rows
from services.evaluation.variants import SINGLE, Variant, Worth, on_record

_COLUMNS = (
    *("n", "queries", "accuracy", "95% interval", "pass@k"),
    *("tokens", "graded", "p50 s", "p95 s"),
)
_STEADY = 300.0
"""Seconds over which the time left is estimated: requests differ by far in what they take."""
_WIDE = 120
"""Columns of a table in a file, which nothing needs to be squeezed into."""
_TRIES = 1000
"""How often a question is asked while the service has too much to do."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What an evaluation came to, and in which file every reply is.

    `rows` are those that were asked for; `on_record`, like all else, also those that were measured
    into the same folder before. `fitted` is there if it was asked for and there are outcomes.
    """

    path: Path
    configuration: Mapping[str, Any]
    worth: Worth | None
    rows: tuple[Row, ...]
    on_record: tuple[Row, ...]
    rounds: tuple[Round, ...]
    errors: tuple[Record, ...]
    spreads: tuple[Spread, ...] = ()
    fitted: Fitted | None = None

    def publish(self) -> str:
        """Write pictures and reports beside the replies; returns what report.md says.

        Where a calibration was fitted, it is written there, too.
        """
        # Only once all is measured.
        from services.evaluation.chart import draw  # noqa: PLC0415
        from services.evaluation.pictures import (  # noqa: PLC0415
            draw_deadlines,
            draw_reliability,
        )

        asked = f"{self.configuration['questions']}, {self.configuration['limit']} questions"
        folder, model = self.path.parent, self.configuration["model"]
        title = f"{asked}, answered by {model}"
        picture = draw(self.on_record, folder, title=title, worth=self.worth)
        timed = draw_deadlines(self.on_record, folder, title=title)
        trusted = draw_reliability(self.fitted, folder, title=str(self.configuration["questions"]))
        more = (
            *sections.splits(self.on_record),
            *sections.deadlines(self.on_record, timed),
            *sections.efforts(self.spreads),
            *sections.calibration(self.fitted, trusted),
        )
        text = markdown(self.on_record, self.rounds, self.configuration, self.worth, picture, more)
        (folder / "report.md").write_text(text, encoding="utf-8")
        (folder / "report.json").write_text(self._in_json() + "\n", encoding="utf-8")
        if self.fitted is not None:
            save(self.fitted.calibration, self.calibration)
        return text

    @property
    def calibration(self) -> Path:
        """The file of the calibration."""
        return self.path.parent / "calibration.json"

    def _in_json(self) -> str:
        """All that the report says, but for who beats whom."""
        fitted = self.fitted
        checks = () if fitted is None else (fitted.together, *fitted.families)
        said = {
            "configuration": self.configuration,
            "rows": [asdict(row) for row in self.on_record],
            "efforts": [{**asdict(one), "ratio": one.ratio} for one in self.spreads],
            "calibration": [asdict(one) for one in checks],
        }
        return json.dumps(said, indent=2)

    def amiss(self) -> Iterator[str]:
        """Lines about what has no reply; none where all have one."""
        if not self.errors:
            return
        yield (
            f"{len(self.errors)} requests failed and are not in the rows; "
            "the same command asks them again."
        )
        for told, count in Counter(str(one.error) for one in self.errors).most_common(3):
            yield f"  {count} x {told}"


async def measure(
    url: str,
    plan: Plan,
    folder: Path,
    concurrency: int,
    console: Console,
    *,
    calibrating: bool = False,
) -> Measured:
    """Ask what isn't on record yet, and sum up. Raises ResultsError, ServiceError, Hopeless."""
    async with Client(url, tries=_TRIES) as client:
        model = await client.model()
        sampling = run.Sampling(model, plan.seed, plan.temperature, plan.max_tokens)
        configuration = plan.configuration(model)
        with results.opened(folder, configuration) as kept:
            total = len(plan.questions) * len(plan.variants)
            left = sum(1 for _ in run.jobs(plan.questions, plan.variants, kept, plan.seed))
            with _progress(console, total, total - left) as heard:

                async def ask(compared: Sequence[Variant], sampling: run.Sampling) -> None:
                    todo = run.jobs(plan.questions, compared, kept, plan.seed)
                    await run.evaluate(
                        todo, client, kept, sampling, concurrency=concurrency, heard=heard
                    )

                if plan.samples_first:
                    await ask((SINGLE,), sampling)
                worth = plan.worth(kept)
                rest = [one for one in plan.variants if one != SINGLE or not plan.samples_first]
                await ask(rest, replace(sampling, worth=worth))
            recorded = on_record(kept)
            return Measured(
                path=kept.path,
                configuration=configuration,
                worth=worth,
                rows=rows(kept, plan.variants, worth),
                on_record=rows(kept, recorded, worth),
                rounds=rounds(kept, recorded),
                errors=kept.errors,
                spreads=spreads(kept, recorded),
                fitted=calibrate(kept, model, plan.described) if calibrating else None,
            )


async def store(calibration: Calibration, redis_url: str) -> None:
    """Put a calibration into Redis. Raises CalibrationError where that can't be reached."""
    try:
        async with connect(redis_url) as redis:
            await CalibrationStore(redis).put(calibration)
    except RedisError as error:
        raise CalibrationError(
            f"The calibration can't be kept in Redis: {error}. Name its file in "
            "service.calibration of the profile instead, or repeat the command."
        ) from error


def show(measured: Measured, console: Console) -> None:
    """Print the rows as a table."""
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    timed = any(row.deadline is not None for row in measured.rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    if timed:
        table.add_column("in time", justify="right", no_wrap=True)
    for row in measured.rows:
        table.add_row(*_cells(row), *((_said(row.in_time, "{:.1%}"),) if timed else ()))
    console.print(table)
    for told in _summed_up(measured):
        console.print(told, soft_wrap=True, highlight=False)
    folder = measured.path.parent
    for line in (f"Every reply: {measured.path}", f"Table and picture: {folder / 'report.md'}"):
        console.print(line, style="dim", soft_wrap=True, highlight=False)


def in_json(measured: Measured) -> str:
    """The rows as a JSON array."""
    return json.dumps([asdict(row) for row in measured.rows], indent=2)


def _cells(row: Row) -> tuple[str, ...]:
    interval = "" if row.ci95 is None else f"{row.ci95[0]:.1%} – {row.ci95[1]:.1%}"
    return (
        row.strategy,
        _allowed(row),
        str(row.queries),
        _said(row.accuracy, "{:.1%}"),
        interval,
        _said(row.pass_at_k, "{:.1%}"),
        _said(row.mean_completion_tokens, "{:,.0f}"),
        _said(row.mean_reward_tokens, "{:,.0f}"),
        _said(row.p50_seconds, "{:.2f}"),
        _said(row.p95_seconds, "{:.2f}"),
    )


def _allowed(row: Row) -> str:
    count = "" if row.candidates is None else f"{'~' if row.worth else ''}{row.candidates}"
    due = "" if row.deadline is None else f"{row.deadline:g} s"
    return ", ".join(told for told in (count, due) if told)


def _summed_up(measured: Measured) -> Iterator[str]:
    """A line for the efforts' spread on each group of questions, and one for the calibration."""
    for one in measured.spreads:
        if one.ratio is not None:
            yield f"{one.most} takes {one.ratio:.1f} times {one.least}'s tokens: {one.group}"
    if (fitted := measured.fitted) is not None:
        checked = fitted.together
        yield (
            f"Calibration error {checked.raw:.3f} raw, {checked.fitted:.3f} calibrated on other "
            f"questions ({checked.chance:.3f} by chance alone): {measured.calibration}"
        )


def _said(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


@contextmanager
def _progress(console: Console, total: int, done: int) -> Iterator[Callable[[Record], None]]:
    """A bar with the time left; calling what it gives moves it on by one reply."""
    columns = (
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[errors]}", style="yellow"),
    )
    with Progress(*columns, console=console, speed_estimate_period=_STEADY) as bar:
        task = bar.add_task("asking", total=total, completed=done, errors="")
        failed = 0

        def heard(record: Record) -> None:
            nonlocal failed
            failed += record.error is not None
            told = f"{failed} failed" if failed else ""
            bar.update(task, advance=1, errors=told)

        yield heard
