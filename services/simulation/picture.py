"""Goodput against offered load for each number of workers, and the orchestrators' own cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.evaluation.chart import DOTS, FAINT, INK
from services.simulation.figures import Figures, mean
from services.simulation.sweep import by_workers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (9.6, 4.2)
_COLOURS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def draw(found: Sequence[Figures], folder: Path, *, title: str) -> Path:
    """Write simulation.svg and simulation.png; returns the first."""
    from matplotlib import rc_context  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    # The same figures give the same file.
    with rc_context({"font.size": 9.5, "svg.hashsalt": title}):
        figure = Figure(figsize=_SIZE, dpi=DOTS, facecolor="white")
        left = figure.add_axes((0.075, 0.14, 0.52, 0.74))
        right = figure.add_axes((0.70, 0.14, 0.28, 0.74))
        lines = by_workers(found)
        _fill_goodput(left, lines)
        _fill_cost(right, lines)
        left.set_title(title, loc="left", fontsize=11, color=INK, pad=12)
        for axes in (left, right):
            axes.set_axisbelow(True)
            axes.tick_params(colors=INK, length=3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(FAINT)
        path = folder / "simulation.svg"
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), bbox_inches="tight")
    return path


def _fill_goodput(axes: Axes, lines: Mapping[int, Sequence[Figures]]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415

    offered = [one.offered for points in lines.values() for one in points if one.offered]
    ends = (min(offered, default=1.0) / 1.4, max(offered, default=1.0) * 1.4)
    axes.plot(ends, ends, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    for place, (workers, points) in enumerate(lines.items()):
        drawn = sorted(points, key=lambda one: one.offered)
        axes.plot(
            [one.offered for one in drawn],
            [max(one.goodput, ends[0] / 4) for one in drawn],
            color=_COLOURS[place % len(_COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=5,
            linewidth=1.6,
            label=f"{workers:,} worker" + ("s" if workers > 1 else ""),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] < 100 * ends[0] else (1,)))
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("offered, requests a second", color=INK)
    axes.set_ylabel("answered in time, requests a second", color=INK)
    axes.grid(color="#EBEBEB", linewidth=0.8)
    axes.legend(loc="upper left", frameon=False)


def _fill_cost(axes: Axes, lines: Mapping[int, Sequence[Figures]]) -> None:
    from matplotlib.ticker import FixedLocator  # noqa: PLC0415

    costs = {workers: mean([one.own_ms for one in points]) for workers, points in lines.items()}
    axes.plot(list(costs), list(costs.values()), color=INK, marker="o", markersize=5, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.3 * max(costs.values(), default=1.0) or 1.0)
    axes.minorticks_off()
    axes.xaxis.set_major_locator(FixedLocator(list(costs)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("workers", color=INK)
    axes.set_ylabel("planner and driver, CPU ms a candidate", color=INK)
    axes.grid(axis="y", color="#EBEBEB", linewidth=0.8)
