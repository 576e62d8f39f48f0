"""Runs an evaluation with a progress bar, and prints what it came to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

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

from planner.errors import InvalidOption
from services.client import Client
from services.evaluation import questions, results, run
from services.evaluation.questions import Question
from services.evaluation.results import Record
from services.evaluation.summary import Row, rows
from services.evaluation.variants import Variant, variants

_QUESTIONS_OF_A_SPLIT = 300
_COLUMNS = (
    *("n", "queries", "accuracy", "95% interval", "pass@k"),
    *("tokens", "graded", "p50 s", "p95 s"),
)
_WIDE = 120
"""Columns of a table in a file, which nothing needs to be squeezed into."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    source: str
    questions: tuple[Question, ...]
    variants: tuple[Variant, ...]
    seed: int
    temperature: float
    max_tokens: int | None

    @classmethod
    def of(
        cls,
        *,
        split: str | None,
        file: Path | None,
        strategies: str,
        candidates: str,
        limit: int | None,
        seed: int,
        temperature: float,
        max_tokens: int | None,
    ) -> Self:
        """The plan that the command line tells. Raises InvalidOption."""
        compared = variants(_listed(strategies), _counts(candidates))
        if split is not None and file is None:
            source = split
            drawn = questions.synthetic(split, limit or _QUESTIONS_OF_A_SPLIT, seed)
        elif file is not None and split is None:
            source = file.name
            drawn = questions.from_file(file, limit, seed)
        else:
            raise InvalidOption("Name the questions: either --split or --file.")
        return cls(source, drawn, compared, seed, temperature, max_tokens)

    def configuration(self, model: str) -> dict[str, Any]:
        """What makes two runs the same run."""
        return {
            "questions": self.source,
            "limit": len(self.questions),
            "seed": self.seed,
            "strategies": [variant.key for variant in self.variants],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "model": model,
            "fingerprint": questions.fingerprint(self.questions),
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """What an evaluation came to."""

    path: Path
    rows: tuple[Row, ...]
    errors: tuple[Record, ...]

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
    url: str, plan: Plan, folder: Path, concurrency: int, console: Console
) -> Measured:
    """Ask what isn't on record yet, and sum up. Raises ResultsError, ServiceError, Hopeless."""
    async with Client(url) as client:
        model = await client.model()
        sampling = run.Sampling(model, plan.seed, plan.temperature, plan.max_tokens)
        with results.opened(folder, plan.configuration(model)) as kept:
            todo = run.jobs(plan.questions, plan.variants, kept, plan.seed)
            total = len(plan.questions) * len(plan.variants)
            left = sum(1 for _ in run.jobs(plan.questions, plan.variants, kept, plan.seed))
            with _progress(console, total, total - left) as heard:
                await run.evaluate(
                    todo, client, kept, sampling, concurrency=concurrency, heard=heard
                )
            return Measured(kept.path, rows(kept, plan.variants), kept.errors)


def report(measured: Measured, console: Console, *, as_json: bool) -> None:
    """Print the rows: a table, or a JSON array of them and nothing else."""
    if as_json:
        text = json.dumps([asdict(row) for row in measured.rows], indent=2)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in measured.rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(f"Every reply: {measured.path}", style="dim", soft_wrap=True, highlight=False)


def _cells(row: Row) -> tuple[str, ...]:
    interval = "" if row.ci95 is None else f"{row.ci95[0]:.1%} – {row.ci95[1]:.1%}"
    return (
        row.strategy,
        str(row.candidates),
        str(row.queries),
        _said(row.accuracy, "{:.1%}"),
        interval,
        _said(row.pass_at_k, "{:.1%}"),
        _said(row.mean_completion_tokens, "{:,.0f}"),
        _said(row.mean_reward_tokens, "{:,.0f}"),
        _said(row.p50_seconds, "{:.2f}"),
        _said(row.p95_seconds, "{:.2f}"),
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
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("asking", total=total, completed=done, errors="")
        failed = 0

        def heard(record: Record) -> None:
            nonlocal failed
            failed += record.error is not None
            told = f"{failed} failed" if failed else ""
            bar.update(task, advance=1, errors=told)

        yield heard


def _listed(text: str) -> list[str]:
    """What commas separate, but for those in brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in _listed(text)]
    except ValueError:
        raise InvalidOption(
            f"--candidates takes whole numbers with commas between them, not {text!r}."
        ) from None
