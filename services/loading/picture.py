"""The picture of a load: what came in and out each second, how long it took, and percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10
from pathlib import Path
from typing import TYPE_CHECKING

from services.evaluation.chart import DOTS, FAINT, INK
from services.loading.figures import in_time, percentile
from services.loading.sent import End, Sent
from services.loading.watch import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (8.4, 8.2)
_BINS = 60
_OFFERED, _ANSWERED, _GOOD, _REFUSED, _FAILED = (
    *("#8A8A8A", "#0072B2", "#009E73"),
    *("#E69F00", "#D55E00"),
)
_FIRST = "#CC79A7"
_GRID = "#EBEBEB"
_PERCENTS = (*range(1, 100), 99.5, 99.9)


def draw(
    records: Sequence[Sent], seconds: float, timely: float | None, folder: Path, *, title: str
) -> str | None:
    """Write load.svg and load.png; returns the name of the one to show.

    None, and no file, where nothing was sent.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    if not records:
        return None
    # The same records give the same file.
    with rc_context({"font.size": 9.5, "svg.hashsalt": title}):
        figure = Figure(figsize=_SIZE, dpi=DOTS, facecolor="white", layout="constrained")
        _fill(figure, records, seconds, timely, title)
        figure.savefig(folder / "load.svg", metadata={"Date": None})
        figure.savefig(folder / "load.png")
    return "load.svg"


def draw_soak(samples: Sequence[Sample], folder: Path, *, title: str) -> str | None:
    """Write soak.svg and soak.png: memory, open files and tasks over time.

    None, and no file, where none of them was seen.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    seen = [
        (label, _seen(samples, name, scale))
        for label, scale, name in (
            ("memory of all\nprocesses, MiB", 2**20, "pss"),
            ("open files", 1, "files"),
            ("tasks in the\nevent loop", 1, "tasks"),
            ("keys in Redis", 1, "keys"),
        )
    ]
    shown = [(name, points) for name, points in seen if points]
    if not shown:
        return None
    with rc_context({"font.size": 9.5, "svg.hashsalt": title}):
        size = (_SIZE[0], 1.6 * len(shown) + 0.6)
        figure = Figure(figsize=size, dpi=DOTS, facecolor="white", layout="constrained")
        rows = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (name, points) in zip(rows, shown, strict=True):
            axes.plot(*zip(*points, strict=True), color=_ANSWERED, linewidth=1.5)
            axes.set_ylim(0, 1.15 * max(value for _, value in points) or 1)
            axes.set_ylabel(name, color=INK)
            _dress(axes)
        rows[0].set_title(title, loc="left", fontsize=11, color=INK, pad=12)
        rows[-1].set_xlabel("seconds from the start", color=INK)
        figure.savefig(folder / "soak.svg", metadata={"Date": None})
        figure.savefig(folder / "soak.png")
    return "soak.svg"


def _fill(
    figure: Figure, records: Sequence[Sent], seconds: float, timely: float | None, title: str
) -> None:
    rates, delays, ranks = figure.subplots(3, 1, height_ratios=(1, 1.15, 1))
    last = max(seconds, *(one.ended for one in records))
    _draw_rates(rates, records, last, seconds, timely)
    _draw_delays(delays, records, last, seconds, timely)
    _draw_ranks(ranks, records, timely)
    for axes in (rates, delays, ranks):
        _dress(axes)
    rates.set_title(title, loc="left", fontsize=11, color=INK, pad=12)


def _draw_rates(
    axes: Axes, records: Sequence[Sent], last: float, seconds: float, timely: float | None
) -> None:
    """Requests a second, in bins: meant to be sent, answered, right and in time, not answered."""
    width = _width(last)
    ended = {end: [one.ended for one in records if one.end is end] for end in End}
    good = [
        one.ended
        for one in records
        if one.end is End.ANSWERED and one.right and in_time(one, timely)
    ]
    for times, colour, name, style in (
        ([one.due for one in records], _OFFERED, "meant to be sent", (0, (2, 1.5))),
        (ended[End.ANSWERED], _ANSWERED, "answered", "-"),
        (good, _GOOD, "right and in time" if timely is not None else "right", "-"),
        (ended[End.REFUSED], _REFUSED, "refused", "-"),
        (ended[End.FAILED], _FAILED, "failed", "-"),
    ):
        if times:
            edges, heights = binned(times, last, width)
            axes.stairs(heights, edges, color=colour, label=name, linestyle=style, linewidth=1.5)
    _limit_time(axes, last, seconds)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"a second, over {width:g} s", color=INK)
    _name_lines(axes)


def _draw_delays(
    axes: Axes, records: Sequence[Sent], last: float, seconds: float, timely: float | None
) -> None:
    """Each answer at the time when it was meant to be asked for, and the median around it."""
    answered = [one for one in records if one.end is End.ANSWERED]
    for those, colour, name in (
        ([one for one in answered if one.right], _ANSWERED, "right"),
        ([one for one in answered if not one.right], _FAILED, "wrong"),
    ):
        axes.plot(
            [one.due for one in those],
            [one.latency for one in those],
            linestyle="",
            marker="o",
            markersize=3,
            markeredgewidth=0,
            alpha=0.45,
            color=colour,
            label=name,
        )
    for percent, style in ((50, "-"), (95, (0, (3, 1.5)))):
        times, values = _moving(answered, _width(last), percent)
        axes.plot(times, values, color=INK, linewidth=1.3, linestyle=style, label=f"p{percent}")
    _draw_timely(axes, timely)
    _limit_time(axes, last, seconds)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds from the start, when it was meant to be sent", color=INK)
    axes.set_ylabel("seconds to the answer", color=INK)
    _name_lines(axes)


def _draw_ranks(axes: Axes, records: Sequence[Sent], timely: float | None) -> None:
    """Percentiles, on an axis that has as much room from 90 to 99 as from 0 to 90."""
    answered = [one for one in records if one.end is End.ANSWERED]
    for seconds, colour, name in (
        ([one.latency for one in answered], _ANSWERED, "answer"),
        ([one.first - one.due for one in records if one.first is not None], _FIRST, "first sign"),
    ):
        if ranked := sorted(seconds):
            values = [percentile(ranked, one) for one in _PERCENTS]
            places = [_nines(one) for one in _PERCENTS]
            axes.plot(places, values, color=colour, linewidth=1.6, label=name)
    _draw_timely(axes, timely)
    ticks = (0, 50, 90, 95, 99, 99.9)
    axes.set_xticks([_nines(one) for one in ticks], [f"p{one:g}" for one in ticks])
    axes.set_xlim(0, _nines(99.9))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("percentile of the requests", color=INK)
    axes.set_ylabel("seconds, from the intended start", color=INK)
    _name_lines(axes)


def binned(times: Sequence[float], last: float, width: float) -> tuple[list[float], list[float]]:
    """How many a second there are in each bin up to `last`: the bins' edges, and their heights."""
    count = max(1, ceil(last / width))
    heights = [0.0] * count
    for one in times:
        heights[min(count - 1, int(one / width))] += 1 / width
    return [width * place for place in range(count + 1)], heights


def _width(last: float) -> float:
    """Seconds of a bin: at least one, and as round as 1, 2, 5, 10."""
    scale = 1.0
    while True:
        for step in (1, 2, 5):
            if last <= _BINS * step * scale:
                return step * scale
        scale *= 10


def _moving(
    answered: Sequence[Sent], width: float, percent: float
) -> tuple[list[float], list[float]]:
    """A percentile over time, of what was due in a window of four bins around it."""
    times, values = [], []
    ends = max((one.due for one in answered), default=0.0)
    for place in range(ceil(ends / width) + 1):
        middle = min(place * width, ends)
        near = sorted(one.latency for one in answered if abs(one.due - middle) <= 2 * width)
        if near:
            times.append(middle)
            values.append(percentile(near, percent))
    return times, values


def _nines(percent: float) -> float:
    """How many nines: 90 is at 1, 99 at 2."""
    return -log10(1 - percent / 100)


def _seen(samples: Sequence[Sample], name: str, scale: int) -> list[tuple[float, float]]:
    values = ((one.seconds, getattr(one, name)) for one in samples)
    return [(seconds, value / scale) for seconds, value in values if value is not None]


def _dress(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)


def _limit_time(axes: Axes, last: float, seconds: float) -> None:
    axes.set_xlim(0, last)
    if last > seconds:
        axes.axvspan(seconds, last, color="#F4F4F4", zorder=0)


def _draw_timely(axes: Axes, timely: float | None) -> None:
    if timely is not None:
        axes.axhline(timely, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), label="in time")


def _name_lines(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=INK)
