"""Pictures that only some evaluations have: accuracy against the deadline, or against confidence.

They look like the picture of accuracy against tokens, beside which they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.reliability import Bin
from services.evaluation.calibrating import Fitted
from services.evaluation.chart import DOTS, FAINT, INK, SIZE, Spot, draw_line, looks, name_lines
from services.evaluation.summary import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SQUARE = (4.6, 4.4)
_RAW, _TOLD = "#D55E00", "#0072B2"


def draw_deadlines(rows: Sequence[Row], folder: Path, *, title: str) -> str | None:
    """Write deadlines.svg and deadlines.png; returns the name of the one to show.

    Dashed, the share answered in time. None, and no file, where no row has a deadline.
    """
    due = [row for row in rows if row.deadline is not None and row.accuracy is not None]
    if not due:
        return None
    return _saved(folder, "deadlines", title, SIZE, lambda figure: _fill_deadlines(figure, due))


def draw_reliability(fitted: Fitted | None, folder: Path, *, title: str) -> str | None:
    """Write reliability.svg and reliability.png; returns the name of the one to show."""
    if fitted is None:
        return None
    return _saved(
        folder, "reliability", title, _SQUARE, lambda figure: _fill_reliability(figure, fitted)
    )


def _saved(
    folder: Path,
    name: str,
    title: str,
    size: tuple[float, float],
    fill: Callable[[Figure], Axes],
) -> str:
    from matplotlib import rc_context  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    # The same results give the same file.
    with rc_context({"font.size": 9.5, "svg.hashsalt": title}):
        figure = Figure(figsize=size, dpi=DOTS, facecolor="white")
        axes = fill(figure)
        axes.set_title(title, loc="left", fontsize=11, color=INK, pad=12)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, length=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", bbox_inches="tight")
    return f"{name}.svg"


def _fill_deadlines(figure: Figure, due: Sequence[Row]) -> Axes:
    from matplotlib.ticker import FixedLocator, NullLocator  # noqa: PLC0415

    axes = figure.add_axes((0.075, 0.155, 0.715, 0.745))
    lines: dict[str, list[Spot]] = {}
    timely: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(due, key=_deadline):
        name = _line(row)
        low, high = row.ci95 or (0.0, 1.0)
        lines.setdefault(name, []).append(
            Spot(name, _deadline(row), 100 * (row.accuracy or 0.0), 100 * low, 100 * high)
        )
        timely.setdefault(name, []).append((_deadline(row), 100 * (row.in_time or 0.0)))
    drawn = looks(list(lines))
    for name, line in lines.items():
        draw_line(axes, line, drawn[name])
        axes.plot(
            *zip(*timely[name], strict=True),
            color=drawn[name].colour,
            linestyle=(0, (2, 2)),
            linewidth=1.2,
            alpha=0.6,
        )
    seconds = sorted({_deadline(row) for row in due})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(seconds))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{one:g}" for one in seconds])
    axes.set_xlim(seconds[0] / 1.2, seconds[-1] * 1.2)
    axes.set_ylim(0, 104)
    axes.set_xlabel("deadline in seconds", color=INK)
    axes.yaxis.set_major_formatter("{x:.0f}%")
    axes.set_ylabel("accuracy; dashed: replied in time", color=INK)
    axes.grid(axis="y", color="#EBEBEB", linewidth=0.8)
    name_lines(axes, lines, drawn)
    return axes


def _fill_reliability(figure: Figure, fitted: Fitted) -> Axes:
    axes = figure.add_axes((0.13, 0.13, 0.82, 0.76))
    axes.plot((0, 100), (0, 100), color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    for bins, colour, marker, error, name in (
        (fitted.together.before, _RAW, "s", fitted.together.raw, "raw"),
        (fitted.together.bins, _TOLD, "o", fitted.together.fitted, "calibrated"),
    ):
        told = f"{name} (error {error:.3f})"
        axes.plot(*_points(bins), color=colour, marker=marker, linewidth=1.6, label=told)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_formatter("{x:.0f}%")
    axes.yaxis.set_major_formatter("{x:.0f}%")
    axes.set_xlabel("confidence, in ten bins of equal numbers", color=INK)
    axes.set_ylabel("of these, right", color=INK)
    axes.grid(color="#EBEBEB", linewidth=0.8)
    axes.legend(loc="upper left", frameon=False)
    return axes


def _points(bins: Sequence[Bin]) -> tuple[list[float], list[float]]:
    return [100 * one.confidence for one in bins], [100 * one.accuracy for one in bins]


def _deadline(row: Row) -> float:
    return row.deadline or 0.0


def _line(row: Row) -> str:
    """The name of the line: strategies that may take other numbers have others."""
    return row.strategy if row.candidates is None else f"{row.strategy} n={row.candidates}"
