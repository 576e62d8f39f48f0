"""How figures are written in Markdown: tables, and values with their intervals in brackets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from services.evaluation.estimates import Interval


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table, numbers to the right. A bar in a cell would end it."""
    yield _line(head)
    yield _line(["---", *("---:" for _ in head[1:])])
    for line in lines:
        yield _line(line)


def share(value: float | None, interval: Interval | None = None) -> str:
    """A share of one, in percent."""
    if value is None:
        return ""
    told = "" if interval is None else f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"
    return f"{value:.1%}{told}"


def number(value: float | None, interval: Interval | None, form: str) -> str:
    """A figure that isn't negative, in this form."""
    if value is None:
        return ""
    low_high = "–".join(form.format(max(0.0, end)) for end in interval or ())
    return f"{form.format(value)}{f' ({low_high})' if low_high else ''}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
