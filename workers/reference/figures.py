"""What candidates and their scores come to: the figures of a model card, as pure functions."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

from workers.reference.labels import steps_of
from workers.reference.synthetic import Query, answer_of, first_wrong_step, right

_CERTAIN = 0.95


@dataclass(frozen=True, slots=True)
class Candidate:
    """One written solution: its text, its length in tokens, its step scores."""

    text: str
    tokens: int
    scores: Sequence[float]

    @property
    def answer(self) -> str | None:
        """The answer given, if any."""
        return answer_of(self.text)

    @property
    def score(self) -> float:
        """The score after the last step; 0 where there is none."""
        return self.scores[-1] if self.scores else 0.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """A query and its candidates, in the order they were sampled."""

    query: Query
    candidates: Sequence[Candidate]


def search_figures(sampled: Sequence[Sampled]) -> dict[str, float]:
    """Shares of queries answered rightly, by how the answer is chosen among all candidates."""
    figures = {
        "single": _mean([right(each.query, c.text) for each in sampled for c in each.candidates]),
        "majority": _mean([majority(e.candidates) == e.query.answer for e in sampled]),
        "weighted": _mean([weighted(e.candidates) == e.query.answer for e in sampled]),
        "best": _mean([best(e.candidates) == e.query.answer for e in sampled]),
        "pass": _mean([any(right(e.query, c.text) for c in e.candidates) for e in sampled]),
        "tokens": _mean([c.tokens for each in sampled for c in each.candidates]),
        "step_auc": step_auc(sampled),
    }
    stopped = [each.candidates[: beta_stop(each.candidates)] for each in sampled]
    used = sum(c.tokens for candidates in stopped for c in candidates)
    every = sum(c.tokens for each in sampled for c in each.candidates)
    return figures | {
        "beta": _mean(
            [majority(s) == e.query.answer for s, e in zip(stopped, sampled, strict=True)]
        ),
        "beta_tokens": used / every,
    }


def majority(candidates: Sequence[Candidate]) -> str | None:
    """The answer given most often; a tie goes to the higher score sum."""
    return _elect(candidates, lambda candidate: (1.0, candidate.score))


def weighted(candidates: Sequence[Candidate]) -> str | None:
    """The answer with the highest sum of scores."""
    return _elect(candidates, lambda candidate: (candidate.score,))


def best(candidates: Sequence[Candidate]) -> str | None:
    """The answer of the candidate with the highest score."""
    return max(candidates, key=lambda candidate: candidate.score).answer


def beta_stop(candidates: Sequence[Candidate]) -> int:
    """How many candidates Adaptive-Consistency takes (2305.11860): until the lead is certain."""
    votes: Counter[str] = Counter()
    for taken, candidate in enumerate(candidates, 1):
        if candidate.answer is not None:
            votes[candidate.answer] += 1
        first, second = ([*(count for _, count in votes.most_common(2)), 0, 0])[:2]
        total = first + second + 1
        behind = sum(comb(total, k) for k in range(second + 1)) / 2**total
        if 1 - behind >= _CERTAIN:
            return taken
    return len(candidates)


def step_auc(sampled: Sequence[Sampled]) -> float:
    """How often a right step scores above a wrong one; a step after a wrong one is wrong."""
    good: list[float] = []
    bad: list[float] = []
    for each in sampled:
        for candidate in each.candidates:
            wrong = first_wrong_step(each.query, steps_of(candidate.text))
            for place, score in enumerate(candidate.scores):
                (good if wrong is None or place < wrong else bad).append(score)
    return auc(good, bad)


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """Area under the ROC curve, ties counting half. Raises ValueError where a side is empty."""
    if not good or not bad:
        raise ValueError("Both right and wrong are needed to tell them apart.")
    marked = sorted([(score, 1) for score in good] + [(score, 0) for score in bad])
    groups: dict[float, list[int]] = defaultdict(list)
    for score, mark in marked:
        groups[score].append(mark)
    below, area = 0, 0.0
    for marks in groups.values():
        ups = sum(marks)
        area += ups * (below + (len(marks) - ups) / 2)
        below += len(marks) - ups
    return area / (len(good) * len(bad))


def _elect(
    candidates: Sequence[Candidate], worth: Callable[[Candidate], tuple[float, ...]]
) -> str | None:
    sums: dict[str, tuple[float, ...]] = {}
    for candidate in candidates:
        if candidate.answer is not None:
            new = worth(candidate)
            old = sums.get(candidate.answer, (0.0,) * len(new))
            sums[candidate.answer] = tuple(a + b for a, b in zip(old, new, strict=True))
    return max(sums, key=lambda answer: sums[answer]) if sums else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
