"""Fits what a model's confidence means on the outcomes of an evaluation, and checks it on others.

What always holds: what is said of how well a curve tells was told by curves that were fitted on
other questions. Answers that couldn't be found have nothing to be sure of, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

from planner.calibration import ANY, Calibration, Gain, banded, family
from planner.curves import Curve, Isotonic, fit, held_out
from planner.reliability import (
    Bin,
    Pair,
    chance_error,
    expected_calibration_error,
    reliability,
)
from services.evaluation.results import Record, Results
from services.evaluation.variants import Variant, on_record

_LEAST = 50
"""With fewer outcomes a family goes by the curve for all."""
_LEAST_GAIN = 10
"""With fewer questions nothing is said of what tokens brought."""
_PROBES = 4
"""Candidates of the vote by whose confidence gains are told apart."""
_THIRDS = 3

_Told: TypeAlias = dict[tuple[str, str], float]
"""The chance that others tell of each outcome, by its place."""


@dataclass(frozen=True, slots=True)
class Checked:
    """How well the confidence of some outcomes tells how often they are right.

    Errors are expected calibration errors: `raw` of what the searches said, `fitted` of what curves
    fitted on other questions say of the same, and `chance` the one that so few outcomes show of
    confidences that are exactly right. `replied` is of what the replies said, where these were
    calibrated by curves that the service had before. `kind` is that of the curves.
    """

    name: str
    kind: str
    outcomes: int
    raw: float
    fitted: float
    chance: float
    replied: float | None
    bins: tuple[Bin, ...]
    before: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The calibration, and how it does: all outcomes together, and each family by itself."""

    calibration: Calibration
    together: Checked
    families: tuple[Checked, ...]


def calibrate(results: Results, model: str, source: str) -> Fitted | None:
    """What the outcomes on record teach of `model`; None where there are none."""
    compared = on_record(results)
    known = [
        (variant, record)
        for variant in compared
        for record in results.of(variant.key)
        if record.error is None and record.answer is not None
    ]
    if not known:
        return None
    everything = [record for _, record in known]
    curves, told = _curves(ANY, everything)
    checks = []
    for name, records in _families(known).items():
        if len(records) < _LEAST:
            continue
        own, chances = _curves(name, records)
        curves.update(own)
        told.update(chances)
        checks.append(_check(name, own.values(), records, chances))
    together = _check("all, each by its own curve", (), everything, told)
    gains = tuple(_gains(results, compared))
    return Fitted(Calibration(model, curves, gains, source), together, tuple(checks))


def _families(known: Sequence[tuple[Variant, Record]]) -> Mapping[str, list[Record]]:
    """The outcomes of each strategy with its selector; first those of a strategy whatever is
    inside it, so that those with the same inside it come after and count.
    """
    whole: dict[str, list[Record]] = {}
    exact: dict[str, list[Record]] = {}
    for variant, record in known:
        strategy, _, selector = (record.used or family(*variant.settled)).rpartition("/")
        exact.setdefault(family(strategy, selector), []).append(record)
        if "(" in strategy:
            plain = family(strategy.partition("(")[0], selector)
            whole.setdefault(plain, []).append(record)
    for name, records in whole.items():
        records.extend(exact.pop(name, ()))
    return {**whole, **exact}


def _curves(name: str, records: Sequence[Record]) -> tuple[dict[str, Curve], _Told]:
    """A curve for all of these and one for each band of them, and what others like them tell."""
    curves: dict[str, Curve] = {}
    told: _Told = {}
    bands: dict[str, list[Record]] = {}
    for record in records:
        bands.setdefault(banded(name, record.finished), []).append(record)
    for called, inside in ((name, records), *bands.items()):
        if called == name or len(inside) >= _LEAST:
            pairs, questions = _pairs(inside), [record.question for record in inside]
            curves[called] = fit(pairs, questions)
            places = (record.place for record in inside)
            told.update(zip(places, held_out(pairs, questions), strict=True))
    return curves, told


def _pairs(records: Sequence[Record]) -> list[Pair]:
    return [(record.raw, record.right) for record in records]


def _check(
    name: str, curves: Iterable[Curve], records: Sequence[Record], chances: _Told
) -> Checked:
    told = [(chances[record.place], record.right) for record in records]
    calibrated = [(one.confidence, one.right) for one in records if one.calibrated]
    kinds = {"isotonic" if isinstance(curve, Isotonic) else "Platt" for curve in curves}
    return Checked(
        name=name,
        kind=", ".join(sorted(kinds)),
        outcomes=len(records),
        raw=expected_calibration_error(_pairs(records)),
        fitted=expected_calibration_error(told),
        chance=chance_error([chance for chance, _ in told]),
        replied=expected_calibration_error(calibrated) if calibrated else None,
        bins=reliability(told),
        before=reliability(_pairs(records)),
    )


def _gains(results: Results, compared: Sequence[Variant]) -> Iterator[Gain]:
    """What each way was worth: on all questions, and by thirds of how sure a vote of four was."""
    thirds = _by_probe(results, compared)
    for variant in compared:
        if variant.deadline is not None:
            continue
        replies = {one.question: one for one in results.of(variant.key) if one.error is None}
        if (gain := _gain(variant, list(replies.values()), None)) is not None:
            yield gain
        for bounds, questions in thirds:
            shared = [replies[name] for name in questions if name in replies]
            if (gain := _gain(variant, shared, bounds)) is not None:
                yield gain


def _gain(
    variant: Variant, replies: Sequence[Record], probe: tuple[float, float] | None
) -> Gain | None:
    if len(replies) < _LEAST_GAIN:
        return None
    return Gain(
        strategy=variant.written,
        candidates=variant.candidates,
        tokens=round(fmean(one.completion_tokens for one in replies), 2),
        accuracy=round(fmean(one.right for one in replies), 4),
        queries=len(replies),
        probe=probe,
    )


def _by_probe(
    results: Results, compared: Sequence[Variant]
) -> list[tuple[tuple[float, float], list[str]]]:
    """The questions in thirds, by the confidence of a vote of four, and what it lies between.

    Equals stay together, so there may be fewer than three; none where no such vote is on record.
    """
    probe = next((one for one in compared if _is_probe(one)), None)
    if probe is None:
        return []
    replies = [record for record in results.of(probe.key) if record.error is None]
    ordered = sorted(record.raw for record in replies)
    cuts = {ordered[len(ordered) * third // _THIRDS - 1] for third in range(1, _THIRDS)} - {1.0}
    ends = sorted({*cuts, 1.0})
    found = []
    for low, high in zip((-1.0, *ends), ends, strict=False):
        inside = [one.question for one in replies if low < one.raw <= high]
        found.append(((max(0.0, low), high), inside))
    return found


def _is_probe(variant: Variant) -> bool:
    return (
        variant.strategy == "majority"
        and variant.candidates == _PROBES
        and variant.deadline is None
    )
