"""The particle filter beside its_hub's, the library of its authors.

Weights and resampling one by one, then whole filters, which must hold the same particles at every
step. No particle ends before the last step there: where some have, the two keep them in different
orders, and systematic resampling draws others of the same weights.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from math import isclose
from typing import Any

import pytest
from its_hub.core.algorithms import particle_gibbs as theirs  # type: ignore[import-untyped]

from planner.domain import Candidate, Expand, Finish, Grade, Message, Query, Result
from planner.search import Search, Setup
from planner.search.particles import (
    AnnealedParticles,
    MultinomialParticles,
    Particles,
    effective_share,
    logit,
    softmax,
    systematic,
)
from planner.search.tree import MAX_STEPS
from planner.selection import selector
from planner.stopping import parse

CASES = 3_000
FILTERS = 150


def setup(candidates: int, seed: int) -> Setup:
    query = Query((Message("user", "How many?"),), seed=seed)
    return Setup(query, candidates, selector("best"), parse("none"), grades=True)


def score(dice: random.Random) -> float:
    """Anything in [0, 1], and the ends more often than anything else."""
    return dice.choice((0.0, 1.0, *(dice.random() for _ in range(8))))


class Steps:
    """The generator of steps that both filters have; it writes each particle's place down."""

    max_steps = MAX_STEPS

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.seen: list[list[tuple[int, ...]]] = []
        """The particles at each step, each by the places it has come through."""

    async def aforward(
        self, _lm: object, _prompts: Sequence[str], so_far: Sequence[Sequence[str]], **_: object
    ) -> list[tuple[str, bool]]:
        self.seen.append([tuple(map(int, steps)) for steps in so_far])
        last = len(self.seen) == self.depth
        return [(str(place), last) for place in range(len(so_far))]

    def _post_process(self, steps: Sequence[str], *, stopped: bool) -> str:
        return " ".join(steps)


class Rewards:
    """Scores each particle by its step and place."""

    def __init__(self, scores: Sequence[Sequence[float]]) -> None:
        self.scores = scores

    async def ascore(self, _prompt: str, texts: Sequence[str]) -> list[float]:
        return [self.scores[len(text.split()) - 1][place] for place, text in enumerate(texts)]


def their_filter(steps: Steps, rewards: Rewards, method: str) -> Any:
    # A filter is their sampler's first iteration. Their own class of that name drops the method.
    return theirs.ParticleGibbs(steps, rewards, num_ref_particles=0, resampling_method=method)


def run(under: Search, scores: Sequence[Sequence[float]]) -> list[list[tuple[int, ...]]]:
    """Drive ours with the same steps and rewards; the particles at each step."""
    seen: list[list[tuple[int, ...]]] = []
    while not under.done:
        level = [task for task in under.ask(99) if isinstance(task, Expand)]
        seen.append([_places(task.parent) for task in level])
        finish = Finish.STOP if len(seen) == len(scores) else Finish.STEP
        for place, task in enumerate(level):
            text = f"{task.parent.text if task.parent else ''} {place}"
            made = Candidate(task.path, text, (1,), finish)
            under.tell(task, Result(task.id, "done", made))
        for grade in under.ask(99):
            assert isinstance(grade, Grade)
            node = grade.candidate
            value = scores[len(node.path) - 1][_places(node)[-1]]
            under.tell(grade, Result(grade.id, "done", node.graded((value,), value)))
    return seen


def _places(node: Candidate | None) -> tuple[int, ...]:
    return tuple(map(int, node.text.split())) if node else ()


def test_weights_are_the_same() -> None:
    """The logit of a score, clipped alike, and the softmax of logits."""
    dice = random.Random(31)
    for _ in range(CASES):
        scores = [score(dice) for _ in range(dice.randint(1, 20))]
        logits = [logit(each) for each in scores]
        assert logits == pytest.approx([theirs._inv_sigmoid(each) for each in scores], abs=1e-9)
        assert softmax(logits) == pytest.approx(theirs._softmax(logits), abs=1e-12)


def test_systematic_resampling_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same places for the same weights and the same random number."""
    dice = random.Random(32)
    under = their_filter(Steps(1), Rewards([]), "systematic")
    u = 0.0
    monkeypatch.setattr("numpy.random.uniform", lambda low, high: u)
    for _ in range(CASES):
        u = dice.random()
        weights = softmax([logit(score(dice)) for _ in range(dice.randint(1, 20))])
        count = dice.randint(1, 40)
        expected = under._resampling_systematic(range(len(weights)), weights, count)
        assert systematic(weights, count, u) == expected, (weights, count, u)


def test_multinomial_resampling_draws_the_same() -> None:
    """The same places for the same weights and the same seed."""
    dice = random.Random(33)
    under = their_filter(Steps(1), Rewards([]), "multinomial")
    for seed in range(CASES):
        count = dice.randint(1, 40)
        weights = softmax([logit(score(dice)) for _ in range(dice.randint(1, 20))])
        random.seed(seed)
        expected = under._resampling_multinomial(range(len(weights)), weights, count)
        ours = MultinomialParticles(setup(count, seed))
        assert ours._resample(weights, count, random.Random(seed)) == expected


def test_annealing_is_the_same() -> None:
    """The same temperature for the same weights at the same step.

    By default its_hub anneals in the first half of the steps only; what is compared is the rule.
    """
    dice = random.Random(34)
    rule = theirs.EntropicParticleFiltering(Steps(1), Rewards([]), early_phase=1.0)
    softened = 0
    for _ in range(CASES):
        logits = [logit(score(dice)) for _ in range(dice.randint(1, 20))]
        weights = softmax(logits)
        if isclose(effective_share(weights), 0.5, rel_tol=1e-5):
            continue  # which side of the bound that is, is a matter of rounding
        ours = AnnealedParticles(setup(len(logits), 0))
        ours._steps = dice.randint(1, MAX_STEPS - 1)
        expected = rule._temperature_annealing(weights, ours._steps, len(logits))
        assert ours._temperature(logits) == pytest.approx(expected, rel=1e-5)
        softened += expected > 1.0
    assert softened > CASES / 4


@pytest.mark.parametrize(
    ("ours", "method"), [(Particles, "systematic"), (MultinomialParticles, "multinomial")]
)
def test_filters_hold_the_same_particles(ours: type[Particles], method: str) -> None:
    """Step by step, given the same scores and the same random numbers."""
    dice = random.Random(35)
    for case in range(FILTERS):
        width, depth = dice.randint(1, 16), dice.randint(1, 6)
        scores = [[score(dice) for _ in range(width)] for _ in range(depth)]
        with pytest.MonkeyPatch.context() as monkeypatch:
            numbers = Numbers(case)
            numbers.give_to(ours, monkeypatch)
            seen = run(ours(setup(width, case)), scores)
            numbers.step = 0
            steps = Steps(depth)
            other = their_filter(steps, Rewards(scores), method)
            asyncio.run(other.ainfer(None, "How many?", width))
        assert seen == steps.seen, case
        assert len(seen) == depth


class Numbers:
    """The random numbers of one filter: the same at the same step for whoever asks."""

    def __init__(self, case: int) -> None:
        self.case = case
        self.step = 0

    def give_to(self, ours: type[Particles], monkeypatch: pytest.MonkeyPatch) -> None:
        """Let ours and theirs draw from these."""
        resample = ours._resample

        def resampled(
            under: Particles, weights: Sequence[float], count: int, _: random.Random
        ) -> list[int]:
            return resample(under, weights, count, self.next())

        monkeypatch.setattr(ours, "_resample", resampled)
        monkeypatch.setattr("numpy.random.uniform", lambda low, high: self.next().random())
        monkeypatch.setattr(theirs, "random", self)

    def choices(self, among: Sequence[Any], weights: Sequence[float], k: int) -> list[Any]:
        """As `random.choices`, but in order: ours keeps the copies of a particle together."""
        places = self.next().choices(range(len(among)), weights, k=k)
        return [among[place] for place in sorted(places)]

    def next(self) -> random.Random:
        self.step += 1
        return random.Random(f"{self.case}/{self.step}")
