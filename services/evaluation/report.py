"""The results in Markdown: all rows, pass@k, and who beats whom on the same questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from services.evaluation.cells import number, share, table
from services.evaluation.comparison import Pair, Round, pareto
from services.evaluation.sections import spending
from services.evaluation.summary import Row
from services.evaluation.variants import Variant, Worth

_COLUMNS = (
    *("strategy", "n", "queries", "accuracy", "pass@n"),
    *("completion tokens", "reward tokens", "p50 s", "p95 s"),
)
_LEGEND = (
    "In brackets: 95% intervals. In bold: on the Pareto front of accuracy and completion tokens. "
    "pass@n: any candidate that voted had the answer."
)


def markdown(
    rows: Sequence[Row],
    rounds: Sequence[Round],
    configuration: Mapping[str, Any],
    worth: Worth | None,
    picture: str | None,
    more: Iterable[str] = (),
) -> str:
    """The whole report. `picture` is the file name of the picture beside it, if there is one.

    `more` are the lines of further sections, put before the pairs.
    """
    return "\n".join(
        (
            f"# {configuration['questions']}, answered by {configuration['model']}",
            "",
            *_told(configuration, worth),
            *(() if picture is None else ("", f"![Accuracy against completion tokens]({picture})")),
            "",
            *table(_COLUMNS, _lines(rows)),
            "",
            _LEGEND,
            *_passes(rows),
            *more,
            *(line for one in rounds for line in _matrix(one)),
            "",
        )
    )


def on_front(rows: Sequence[Row]) -> frozenset[int]:
    """The places of the rows that no other beats in accuracy and completion tokens."""
    known = [
        (place, (row.mean_completion_tokens, row.accuracy))
        for place, row in enumerate(rows)
        if row.mean_completion_tokens is not None and row.accuracy is not None
    ]
    return frozenset(known[place][0] for place in pareto([point for _, point in known]))


def _told(configuration: Mapping[str, Any], worth: Worth | None) -> Iterator[str]:
    """What was asked, and how."""
    length = configuration["max_tokens"]
    yield (
        f"{configuration['limit']} questions, seed {configuration['seed']}, temperature "
        f"{configuration['temperature']}{'' if length is None else f', max_tokens {length}'}. "
        "Every strategy was asked the same questions with the same seeds."
    )
    if worth is not None:
        yield ""
        yield (
            f"A candidate's worth is {worth.tokens:,.1f} completion tokens. After n, in brackets, "
            "the completion tokens that no request could exceed."
        )


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    front = on_front(rows)
    for place, row in enumerate(rows):
        name = f"`{row.strategy}`"
        yield (
            f"**{name}**" if place in front else name,
            spending(row),
            str(row.queries),
            share(row.accuracy, row.ci95),
            share(row.pass_at_k, row.pass_at_k_ci95),
            number(row.mean_completion_tokens, row.mean_completion_tokens_ci95, "{:,.0f}"),
            number(row.mean_reward_tokens, row.mean_reward_tokens_ci95, "{:,.0f}"),
            number(row.p50_seconds, row.p50_seconds_ci95, "{:.2f}"),
            number(row.p95_seconds, row.p95_seconds_ci95, "{:.2f}"),
        )


def _passes(rows: Sequence[Row]) -> Iterator[str]:
    """pass@k of the rows with several candidates, where there are any."""
    told = [row for row in rows if len(row.pass_at) > 1]
    if not told:
        return
    widths = [one.k for one in max((row.pass_at for row in told), key=len)]
    yield from ("", "## pass@k", "")
    yield from table(
        ("strategy", "n", *(f"pass@{k}" for k in widths)),
        (
            (
                f"`{row.strategy}`",
                spending(row),
                *(share(one.share, one.ci95) for one in row.pass_at),
                *("" for _ in widths[len(row.pass_at) :]),
            )
            for row in told
        ),
    )
    yield ""
    yield (
        "How often k of the candidates, drawn without looking, have the answer among them: "
        "1 − C(n−c, k) / C(n, k) with c of n right."
    )


def _matrix(one: Round) -> Iterator[str]:
    """How much each variant is better than each other, in points."""
    yield from ("", f"## At {one.title}: row less column, in points of accuracy", "")
    yield from table(
        ("", *(_name(other) for other in one.variants)),
        (
            (
                _name(row),
                *(_gap(one.pairs.get((row.key, column.key))) for column in one.variants),
            )
            for row in one.variants
        ),
    )
    yield ""
    yield "In bold: p < 0.05 by McNemar's exact test, without correction for the number of pairs."


def _name(variant: Variant) -> str:
    return f"`{variant.written}`"


def _gap(pair: Pair | None) -> str:
    if pair is None:
        return ""
    low, high = pair.ci95
    gap = f"{100 * pair.gap:+.1f}"
    return f"{f'**{gap}**' if pair.telling else gap} ({100 * low:+.1f} to {100 * high:+.1f})"
