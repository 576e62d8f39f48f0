"""What `longthink replay` does, and how it prints what it came to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.evaluation.replaying import Summary, effort_of, replay, summary
from services.evaluation.samples import read_samples

_COLUMNS = ("n", "queries", "accuracy", "95% interval", "pass@k", "candidates", "tokens")
_WIDE = 120
"""Columns of a table in a file, which nothing needs to be squeezed into."""
_MOST_VOTES = 8


def samples(
    file: Path,
    *,
    strategy: str,
    selector: str | None,
    stop: str | None,
    candidates: int | None,
    shuffle: int | None,
    as_json: bool,
) -> None:
    """Replay a strategy over the samples of a file. Raises InvalidOption."""
    told, began = Console(stderr=True), time.perf_counter()
    recorded = read_samples(file)
    effort = effort_of(
        recorded, strategy=strategy, selector=selector, stop=stop, candidates=candidates
    )
    if shuffle is not None:
        recorded = tuple(query.shuffled(shuffle) for query in recorded)
    summed = summary(tuple(replay(recorded, effort)), effort)
    if as_json:
        _print_json(asdict(summed))
    else:
        _print_summary(summed)
    short = sum(len(query.samples) < effort.candidates for query in recorded)
    if candidates is not None and short:
        _warn(told, f"Queries with fewer than {candidates} samples: {short}. All of theirs count.")
    for note, count in summed.notes.items():
        _warn(told, f"{count} x {note}")
    took = time.perf_counter() - began
    told.print(f"{summed.queries:,} queries in {took:.1f} s", style="dim", highlight=False)


def again(trace: str, url: str, *, as_json: bool) -> bool:
    """Replay a trace, named by its id or by its file, and say whether the outcome is the same.

    Raises InvalidOption for a file that can't be read, ServiceError for a service that doesn't
    give the trace, TraceError for a trace that can't be replayed.
    """
    from services.evaluation.retrace import read_trace, retrace  # noqa: PLC0415 - for traces only

    # An id has neither of these in it.
    saved = "." in trace or "/" in trace
    retraced = retrace(read_trace(Path(trace)) if saved else asyncio.run(_fetched(trace, url)))
    if as_json:
        _print_json(
            {
                "trace_id": retraced.trace_id,
                "same": retraced.same,
                "recorded": retraced.recorded,
                "replayed": retraced.replayed,
                "diverged": retraced.diverged,
            }
        )
        return retraced.same
    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "recorded", "replayed"):
        table.add_column(name, overflow="fold")
    for key, value in retraced.recorded.items():
        other = None if retraced.replayed is None else retraced.replayed.get(key)
        style = "" if value == other else "red"
        table.add_row(key, Text(_said(key, value)), Text(_said(key, other), style=style))
    console.print(table)
    if retraced.diverged is not None:
        console.print(Text(f"The search went another way: {retraced.diverged}", style="red"))
    elif not retraced.same:
        console.print("The replay came to another outcome.", style="red")
    else:
        console.print("The replay came to the same outcome.", style="green")
    return retraced.same


async def _fetched(trace: str, url: str) -> Any:
    from services.client import Client  # noqa: PLC0415 - for traces only

    async with Client(url) as client:
        # The id of a reply is that of its trace, with OpenAI's prefix.
        return await client.trace(trace.removeprefix("chatcmpl-"))


def _print_summary(summed: Summary) -> None:
    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    tokens = summed.mean_tokens
    table.add_row(
        f"{summed.strategy}/{summed.selector}@{summed.stop}",
        str(summed.candidates),
        str(summed.queries),
        f"{summed.accuracy:.1%}",
        f"{summed.ci95[0]:.1%} – {summed.ci95[1]:.1%}",
        f"{summed.pass_at_k:.1%}",
        f"{summed.mean_candidates:,.1f}",
        "" if tokens is None else f"{tokens:,.0f}",
    )
    console.print(table)
    counts = ", ".join(f"{reason} {count}" for reason, count in summed.stopped.items())
    console.print(Text(f"Stopped: {counts}", style="dim"))


def _print_json(said: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(said, indent=2, ensure_ascii=False))


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    return console


def _warn(told: Console, line: str) -> None:
    told.print(Text(line, style="yellow"))


def _said(key: str, value: Any) -> str:
    """A part of an outcome in one cell."""
    if value is None:
        return "–"
    if key == "votes":
        shown = [f"{vote['answer']} x{vote['count']}" for vote in value[:_MOST_VOTES]]
        return ", ".join([*shown, *(["…"] if len(value) > _MOST_VOTES else [])])
    if key == "ranked":
        return ", ".join(".".join(map(str, path)) for path in value[:_MOST_VOTES])
    return "\n".join(value) if isinstance(value, list) else str(value)
