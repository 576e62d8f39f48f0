"""Replays a search over recorded samples, query by query, and sums up what it came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from planner.domain import Budget, Message, Query
from planner.effort import Effort, Options, settle
from planner.errors import InvalidOption
from planner.replay import replay_samples
from planner.selection import selector
from planner.stopping import parse
from planner.tally import answer_given
from services.evaluation.estimates import pass_at_k, wilson
from services.evaluation.judging import Compare, refereed
from services.evaluation.samples import Recorded


@dataclass(frozen=True, slots=True)
class Ended:
    """How one query ended. `tokens` is None where a sample that was taken doesn't say its own.

    `passes` is the unbiased estimate of the chance that any of as many samples as were planned is
    right (pass@k).
    """

    id: str
    answer: str | None
    right: bool
    passes: float
    candidates: int
    tokens: int | None
    stopped: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What the queries came to. Shares are of one; `ci95` is Wilson's interval of the accuracy.

    `mean_tokens` is None where the samples don't say theirs; `stopped` and `notes` count queries.
    """

    queries: int
    accuracy: float
    ci95: tuple[float, float]
    pass_at_k: float
    mean_candidates: float
    mean_tokens: float | None
    stopped: Mapping[str, int]
    strategy: str
    selector: str
    stop: str
    candidates: int
    notes: Mapping[str, int]


def effort_of(
    recorded: Sequence[Recorded],
    *,
    strategy: str,
    selector: str | None,
    stop: str | None,
    candidates: int | None,
) -> Effort:
    """The effort that these options ask for; without `candidates`, all that any query has."""
    most = max(len(query.samples) for query in recorded)
    return settle(
        Options(
            strategy=strategy,
            selector=selector,
            stop=stop,
            budget=Budget(candidates=candidates or most),
        )
    )


def replay(recorded: Sequence[Recorded], effort: Effort) -> Iterator[Ended]:
    """How each query ends, in order.

    Raises InvalidOption for what is unknown, or can't be replayed over samples.
    """
    grades = any(sample.score is not None for query in recorded for sample in query.samples)
    _check_confidences(recorded, effort)
    with refereed() as (same, equal):
        for query in recorded:
            yield _replay(query, effort, grades, same, equal)


def _check_confidences(recorded: Sequence[Recorded], effort: Effort) -> None:
    """Refuse what goes by the model's confidence where no sample tells of it."""
    if any(sample.token_confidences for query in recorded for sample in query.samples):
        return
    missing = (
        "goes by how sure the model was, so it can't be replayed over samples without "
        '"top_logprobs" at each of their tokens.'
    )
    if selector(effort.selector).needs_logprobs:
        raise InvalidOption(f"selector {effort.selector!r} {missing}", "longthink.selector")
    if parse(effort.stop).needs_logprobs:
        raise InvalidOption(f"stop {effort.stop!r} {missing}", "longthink.stop")


def summary(ended: Sequence[Ended], effort: Effort) -> Summary:
    """What at least one query came to."""
    right = sum(one.right for one in ended)
    low, high = wilson(right, len(ended))
    tokens = [one.tokens for one in ended if one.tokens is not None]
    return Summary(
        queries=len(ended),
        accuracy=round(right / len(ended), 4),
        ci95=(round(low, 4), round(high, 4)),
        pass_at_k=round(fmean(one.passes for one in ended), 4),
        mean_candidates=round(fmean(one.candidates for one in ended), 2),
        mean_tokens=round(fmean(tokens), 2) if len(tokens) == len(ended) else None,
        stopped=dict(Counter(one.stopped for one in ended).most_common()),
        strategy=effort.strategy,
        selector=effort.selector,
        stop=effort.stop,
        candidates=effort.candidates,
        notes=dict(Counter(note for one in ended for note in one.notes).most_common()),
    )


def _replay(query: Recorded, effort: Effort, grades: bool, same: Compare, equal: Compare) -> Ended:
    asked = Query((Message("user", query.question),))
    replayed = replay_samples(asked, effort, query.samples, grades=grades, same=equal)
    outcome = replayed.outcome
    given = Counter(answer_given(sample.candidate(0)) for sample in query.samples)
    right = {answer for answer in given if answer is not None and same(answer, query.answer)}
    return Ended(
        id=query.id,
        answer=outcome.answer,
        right=outcome.answer in right,
        passes=pass_at_k(given.total(), sum(given[answer] for answer in right), replayed.planned),
        candidates=replayed.taken,
        tokens=replayed.tokens,
        stopped=str(outcome.stopped),
        notes=outcome.notes,
    )
