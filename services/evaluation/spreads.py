"""How much more the most effort spends than the least, on easy questions and on hard ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from services.evaluation.questions import by_difficulty
from services.evaluation.results import Record, Results
from services.evaluation.variants import EFFORTS, Variant

_SAMPLES = ("majority", "best_of_n")
_QUARTERS = ("hardest quarter", "third quarter", "second quarter", "easiest quarter")


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean completion tokens of the `least` and the `most` effort on the same questions.

    `group` names these: a split, or a quarter by how often a candidate for them is right.
    """

    group: str
    queries: int
    least: str
    most: str
    least_tokens: float
    most_tokens: float

    @property
    def ratio(self) -> float | None:
        """How many times as much; None where the least took nothing."""
        return self.most_tokens / self.least_tokens if self.least_tokens else None


def spreads(results: Results, compared: Sequence[Variant]) -> tuple[Spread, ...]:
    """Over all questions, by split where there are several, and by quarters.

    Empty where there aren't two efforts without a deadline.
    """
    words = {one.effort: one for one in compared if one.effort and one.deadline is None}
    ordered = [words[word] for word in EFFORTS if word in words]
    if len(ordered) < 2:
        return ()
    least, most = (_replies(results, variant) for variant in (ordered[0], ordered[-1]))
    ease = _ease(results, compared)
    shared = [name for name in least if name in most and name in ease]
    found = []
    for group, names in _groups(shared, least, ease):
        if names:
            found.append(
                Spread(
                    group,
                    len(names),
                    str(ordered[0].effort),
                    str(ordered[-1].effort),
                    fmean(least[name].completion_tokens for name in names),
                    fmean(most[name].completion_tokens for name in names),
                )
            )
    return tuple(found)


def _replies(results: Results, variant: Variant) -> dict[str, Record]:
    return {one.question: one for one in results.of(variant.key) if one.error is None}


def _groups(
    names: Sequence[str], records: Mapping[str, Record], ease: Mapping[str, float]
) -> Iterator[tuple[str, list[str]]]:
    yield "all", list(names)
    splits = by_difficulty(records[name].split for name in names)
    if len(splits) > 1:
        for split in splits:
            yield split, [name for name in names if records[name].split == split]
    ordered = sorted(names, key=lambda name: ease[name])
    for place, quarter in enumerate(_QUARTERS):
        low, high = (len(ordered) * end // len(_QUARTERS) for end in (place, place + 1))
        yield quarter, ordered[low:high]


def _ease(results: Results, compared: Sequence[Variant]) -> dict[str, float]:
    """Of each question, the share of its candidates on record that are right.

    Those of independent samples alone, where such a variant was compared: what decides by itself
    draws the more candidates the harder a question looks, and has its best ones on record.
    """
    right: dict[str, int] = {}
    finished: dict[str, int] = {}
    samples = [one for one in compared if one.strategy in _SAMPLES and one.stop == "none"]
    for variant in samples or compared:
        for name, record in _replies(results, variant).items():
            right[name] = right.get(name, 0) + record.correct
            finished[name] = finished.get(name, 0) + record.finished
    return {name: right[name] / max(1, finished[name]) for name in right}
