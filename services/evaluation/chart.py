"""The picture: accuracy against mean completion tokens, a line a strategy, and the Pareto front.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; markers differ
too, and each line has its name at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log2
from pathlib import Path
from typing import TYPE_CHECKING

from services.evaluation.report import on_front
from services.evaluation.summary import Row
from services.evaluation.variants import ONE_PASS, Worth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (8.4, 5.0)
"""Inches. At README width, text of 9 to 11 points is as large as the text around it."""
DOTS = 200
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B4A9C", "#6B6B6B")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
INK, FAINT, FRONT = "#222222", "#8A8A8A", "#D9D9D9"
_STYLES = ("-", "--", ":")
"""Of the lines that have to share the colours with others."""
_LINE_HEIGHT = 0.056
"""Of a name, as a share of the height of the axes."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One row that has figures, where it is drawn: `at` to the right, accuracy in percent up.

    `label` is written beside it, where its line's name doesn't say what it is.
    """

    strategy: str
    at: float
    accuracy: float
    low: float
    high: float
    front: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """How one strategy's line is drawn."""

    colour: str
    marker: str
    style: str


def draw(rows: Sequence[Row], folder: Path, *, title: str, worth: Worth | None) -> str | None:
    """Write accuracy.png and accuracy.svg; returns the name of the one to show.

    None, and no file, where no row has an accuracy.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    seen = spots(rows)
    if not seen:
        return None
    # The same results give the same file.
    with rc_context({"font.size": 9.5, "svg.hashsalt": title}):
        figure = Figure(figsize=SIZE, dpi=DOTS, facecolor="white")
        _fill(figure, seen, title, _unit(rows, worth))
        # As wide as the longest name asks for.
        figure.savefig(folder / "accuracy.svg", bbox_inches="tight", metadata={"Date": None})
        figure.savefig(folder / "accuracy.png", bbox_inches="tight")
    return "accuracy.svg"


def spots(rows: Sequence[Row]) -> tuple[Spot, ...]:
    """What is drawn. A logarithmic axis has no place for what took no tokens.

    What had a deadline is in a picture of its own.
    """
    timeless = [row for row in rows if row.deadline is None]
    front = on_front(timeless)
    return tuple(
        Spot(
            row.line,
            row.mean_completion_tokens,
            100 * row.accuracy,
            100 * row.ci95[0],
            100 * row.ci95[1],
            place in front,
            row.effort or "",
        )
        for place, row in enumerate(timeless)
        if row.accuracy is not None and row.ci95 is not None and row.mean_completion_tokens
    )


def spread(heights: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Heights of names, in the same order, `least` apart and as near to `heights` as can be.

    They stay between `low` and `high` where there is room for all of them.
    """
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    groups: list[tuple[float, list[int]]] = []
    for place in order:
        centre, members = heights[place], [place]
        # Names that would overlap stand together, around the middle of where they want to be.
        while True:
            half = least * (len(members) - 1) / 2
            centre = max(low + half, min(high - half, centre))
            if not groups:
                break
            before, others = groups[-1]
            if centre - half - (before + least * (len(others) - 1) / 2) >= least - 1e-9:
                break
            groups.pop()
            members = [*others, *members]
            centre = sum(heights[member] for member in members) / len(members)
        groups.append((centre, members))
    found = [0.0] * len(heights)
    for centre, members in groups:
        for index, member in enumerate(members):
            found[member] = centre + least * (index - (len(members) - 1) / 2)
    return found


def _fill(figure: Figure, seen: Sequence[Spot], title: str, unit: float | None) -> None:
    axes = figure.add_axes((0.075, 0.155, 0.715, 0.745))
    lines: dict[str, list[Spot]] = {}
    for spot in sorted(seen, key=lambda spot: spot.at):
        lines.setdefault(spot.strategy, []).append(spot)
    drawn = looks(list(dict.fromkeys(spot.strategy for spot in seen)))
    _draw_front(axes, seen)
    for name, line in lines.items():
        draw_line(axes, line, drawn[name])
    _scale(axes, seen, unit)
    name_lines(axes, lines, drawn)
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=12)


def _draw_front(axes: Axes, seen: Sequence[Spot]) -> None:
    """A broad light band through the points that none beats."""
    front = sorted((spot.at, spot.accuracy) for spot in seen if spot.front)
    tokens, accuracy = zip(*front, strict=True)
    axes.plot(tokens, accuracy, color=FRONT, linewidth=9, solid_capstyle="round", zorder=1)
    # What the band is stands in the corner that rising curves leave free.
    axes.plot(
        (0.79, 0.84),
        (0.045, 0.045),
        color=FRONT,
        linewidth=9,
        solid_capstyle="round",
        transform=axes.transAxes,
    )
    axes.text(0.86, 0.045, "Pareto front", color=FAINT, va="center", transform=axes.transAxes)


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each strategy; `single`, from which all others set out, is black."""
    others = [name for name in names if name != ONE_PASS]
    found = {}
    for place, name in enumerate(others):
        again = place // len(_COLOURS)
        marker = _MARKERS[(place + 3 * again) % len(_MARKERS)]
        style = _STYLES[again % len(_STYLES)]
        found[name] = Look(_COLOURS[place % len(_COLOURS)], marker, style)
    return {**found, ONE_PASS: Look(INK, "*", "-")}


def draw_line(axes: Axes, line: Sequence[Spot], look: Look) -> None:
    """The points of one strategy from left to right, with their intervals and labels."""
    tokens = [spot.at for spot in line]
    lows, highs = [spot.low for spot in line], [spot.high for spot in line]
    axes.vlines(tokens, lows, highs, color=look.colour, alpha=0.3, linewidth=2, zorder=2)
    alone = look.marker == "*"
    axes.plot(
        tokens,
        [spot.accuracy for spot in line],
        color=look.colour,
        linestyle=look.style,
        marker=look.marker,
        markersize=11 if alone else 6,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linewidth=1.8,
        zorder=4 if alone else 3,
    )
    for spot in line:
        if spot.label:
            axes.annotate(
                spot.label,
                (spot.at, spot.accuracy),
                xytext=(0, -14),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=look.colour,
            )


def _scale(axes: Axes, seen: Sequence[Spot], unit: float | None) -> None:
    """Ticks at every doubling of a candidate's worth, or of tokens where that isn't known."""
    from matplotlib.ticker import FixedLocator, NullLocator  # noqa: PLC0415

    one = unit or 1.0
    first = floor(log2(min(spot.at for spot in seen) / one) + 0.05)
    last = ceil(log2(max(spot.at for spot in seen) / one) - 0.05)
    last = max(last, first + 1)
    powers = range(first, last + 1, 1 + (last - first) // 9)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([one * 2.0**power for power in powers]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([_tick(power, one, known=unit is not None) for power in powers])
    axes.set_xlim(one * 2 ** (first - 0.25), one * 2 ** (last + 0.25))
    times = ", and how many times a single sample's" if unit is not None else ""
    axes.set_xlabel(f"mean completion tokens a question{times}", color=INK)
    axes.yaxis.set_major_formatter("{x:.0f}%")
    axes.set_ylabel("accuracy, with 95% intervals", color=INK)
    axes.grid(axis="y", color="#EBEBEB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def _tick(power: int, unit: float, *, known: bool) -> str:
    tokens = f"{unit * 2.0**power:,.0f}"
    return f"{tokens}\n×{2.0**power:g}" if known else tokens


def name_lines(axes: Axes, lines: Mapping[str, Sequence[Spot]], drawn: Mapping[str, Look]) -> None:
    """Each line's name, right of the axes, level with the line's end or as near as may be."""
    low, high = axes.get_ylim()
    ends = [(name, line[-1]) for name, line in lines.items()]
    shares = [(spot.accuracy - low) / (high - low) for _, spot in ends]
    heights = spread(shares, _LINE_HEIGHT, 0.0, 1.0)
    for (name, spot), height in zip(ends, heights, strict=True):
        colour = drawn[name].colour
        axes.annotate(
            name,
            (spot.at, spot.accuracy),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.35,
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 4,
            },
        )


def _unit(rows: Sequence[Row], worth: Worth | None) -> float | None:
    """The completion tokens of one candidate, if they are known."""
    if worth is not None:
        return worth.tokens
    alone = [row.mean_completion_tokens for row in rows if row.strategy == ONE_PASS]
    return alone[0] or None if alone else None
