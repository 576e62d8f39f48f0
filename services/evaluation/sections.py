"""Sections of the report that only some evaluations have: splits, deadlines, efforts, calibration.

Each gives no line where there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.evaluation.calibrating import Checked, Fitted
from services.evaluation.cells import number, share, table
from services.evaluation.spreads import Spread
from services.evaluation.summary import LATE, Row


def spending(row: Row) -> str:
    """What a row was allowed: candidates, their worth in tokens, and a time."""
    most = "" if row.budget_tokens is None else f" (≤ {row.budget_tokens:,})"
    count = "" if row.candidates is None else f"{row.candidates}{most}"
    due = "" if row.deadline is None else f"{row.deadline:g} s"
    return ", ".join(told for told in (count, due) if told)


def splits(rows: Sequence[Row]) -> Iterator[str]:
    """The accuracy on each split of a mix, and what it took."""
    mixed = [row for row in rows if row.parts]
    if not mixed:
        return
    names = list(dict.fromkeys(part.split for row in mixed for part in row.parts))
    yield from ("", "## By split: accuracy, and completion tokens", "")
    yield from table(
        ("strategy", "n", *(head for name in names for head in (name, "tokens")), "all"),
        ((f"`{row.strategy}`", spending(row), *_split_cells(row, names)) for row in mixed),
    )


def deadlines(rows: Sequence[Row], picture: str | None) -> Iterator[str]:
    """What was answered in time."""
    due = [row for row in rows if row.deadline is not None]
    if not due:
        return
    yield from ("", "## By deadline", "")
    if picture is not None:
        yield from (f"![Accuracy against the deadline]({picture})", "")
    yield from table(
        ("strategy", "allowed", "queries", "accuracy", "in time", "with an answer", "p95 s"),
        (
            (
                f"`{row.strategy}`",
                spending(row),
                str(row.queries),
                share(row.accuracy, row.ci95),
                share(row.in_time, row.in_time_ci95),
                share(row.answered, row.answered_ci95),
                number(row.p95_seconds, row.p95_seconds_ci95, "{:.2f}"),
            )
            for row in sorted(due, key=lambda row: row.deadline or 0.0)
        ),
    )
    yield ""
    yield (
        f"In time: of all requests, failed ones included, those replied to by the deadline and "
        f"{1000 * LATE:.0f} ms, as the client saw it. With an answer: a reply, at whatever time, "
        "that had one."
    )


def efforts(found: Sequence[Spread]) -> Iterator[str]:
    """How far apart the least and the most effort are in tokens."""
    if not found:
        return
    least, most = found[0].least, found[0].most
    yield from ("", f"## Completion tokens from `{least}` to `{most}`", "")
    yield from table(
        ("questions", "queries", f"`{least}`", f"`{most}`", "times as many"),
        (
            (
                one.group,
                str(one.queries),
                f"{one.least_tokens:,.0f}",
                f"{one.most_tokens:,.0f}",
                "" if one.ratio is None else f"{one.ratio:.1f}",
            )
            for one in found
        ),
    )
    yield ""
    yield "Quarters are by how many of all candidates on record for a question are right."


def calibration(fitted: Fitted | None, picture: str | None) -> Iterator[str]:
    """How far confidence could be trusted before, and by the curves that were fitted."""
    if fitted is None:
        return
    yield from ("", "## Calibration", "")
    if picture is not None:
        yield from (f"![Accuracy against confidence]({picture})", "")
    checked = (fitted.together, *fitted.families)
    replied = any(one.replied is not None for one in checked)
    yield from table(
        (
            *("strategy/selector", "curve", "outcomes", "raw error"),
            *(("as replied",) if replied else ()),
            *("calibrated error", "by chance alone"),
        ),
        (_checked_cells(one, replied=replied) for one in checked),
    )
    yield ""
    yield (
        "Expected calibration errors, in ten bins of equal numbers. Calibrated: each outcome by a "
        "curve fitted on the other four fifths of the questions. By chance alone: what so few "
        "outcomes show of confidences that are exactly right."
    )
    yield from ("", "All outcomes, each by its own curve:", "")
    yield from table(
        ("bin", "outcomes", "mean confidence", "accuracy"),
        (
            (str(place), str(one.count), share(one.confidence), share(one.accuracy))
            for place, one in enumerate(fitted.together.bins, 1)
        ),
    )


def _split_cells(row: Row, names: Sequence[str]) -> Iterator[str]:
    parts = {part.split: part for part in row.parts}
    for name in names:
        part = parts.get(name)
        yield "" if part is None else share(part.accuracy, part.ci95)
        yield "" if part is None else f"{part.mean_completion_tokens:,.0f}"
    yield share(row.accuracy, row.ci95)


def _checked_cells(one: Checked, *, replied: bool) -> tuple[str, ...]:
    said = "" if one.replied is None else f"{one.replied:.3f}"
    return (
        f"`{one.name}`" if one.kind else one.name,
        one.kind,
        str(one.outcomes),
        f"{one.raw:.3f}",
        *((said,) if replied else ()),
        f"{one.fitted:.3f}",
        f"{one.chance:.3f}",
    )
