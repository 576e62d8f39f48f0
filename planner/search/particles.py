"""Particle filtering (Puri et al., arXiv 2502.01618): inference-time scaling by Monte Carlo.

Each of N particles is a partial answer with the weight logit(score). At every step the particles
are drawn anew in proportion to e^weight, so that promising ones are copied and poor ones die out;
all then grow by a step, until all are finished. Finished ones are drawn too, and need no step.
The answer is chosen from the N particles of the end, each as often as it was drawn; until then,
from all that have finished.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from math import exp, log

from planner.domain import Candidate
from planner.search.base import Setup
from planner.search.levels import Levels
from planner.search.tree import MAX_STEPS, value

_CLIP = 1e-7
_FEW = 0.5
"""The share of effective particles below which the annealed filter softens its weights."""


class Particles(Levels):
    """N particles, resampled systematically at every step."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._ended: list[Candidate] = []
        """The particles that have finished, each as often as it was drawn."""
        self._steps = 0

    @property
    def _over(self) -> bool:
        # A particle that has finished may still die out, so their number ends nothing.
        return self._stopped is not None

    @property
    def _remaining(self) -> int:
        # No lead is certain before the end, so this is more than can ever finish.
        return self.setup.candidates * MAX_STEPS

    def _next_level(self, level: Sequence[Candidate]) -> Sequence[tuple[Candidate, int]]:
        self._steps += 1
        particles = [*level, *self._ended]
        if not all(node.finished for node in particles):
            particles = [particles[place] for place in self._draw(particles)]
        self._ended = [node for node in particles if node.finished]
        if particles and len(self._ended) == len(particles):
            self._tally = self._tally.only(particles)
        copies = Counter(node.path for node in particles if not node.finished)
        return [(node, copies[node.path]) for node in level if node.path in copies]

    def _draw(self, particles: Sequence[Candidate]) -> Sequence[int]:
        """The places of as many particles as the search can be wide, drawn by weight."""
        logits = [logit(value(node)) for node in particles]
        weights = softmax(logits, self._temperature(logits))
        dice = random.Random(f"{self.setup.query.seed}/particles/{self._steps}")
        # As many as the budget can bring to their ends, besides those that have come to it.
        count = min(self._planned, len(self._ended) + self._afforded)
        drawn = self._resample(weights, count, dice)
        growing = [place for place in drawn if not particles[place].finished]
        # Finished particles that died out have cost a candidate each.
        most = min(self._afforded, self.setup.candidates - self._tally.finished)
        if len(growing) <= most:
            return drawn
        # More of those that grow were drawn than that: some of them go, any of them.
        ended = [place for place in drawn if particles[place].finished]
        return [*ended, *sorted(dice.sample(growing, max(0, most)))]

    def _temperature(self, logits: Sequence[float]) -> float:
        return 1.0

    def _resample(self, weights: Sequence[float], count: int, dice: random.Random) -> list[int]:
        return systematic(weights, count, dice.random())


class MultinomialParticles(Particles):
    """Particles drawn independently of each other, with more noise than systematic ones."""

    def _resample(self, weights: Sequence[float], count: int, dice: random.Random) -> list[int]:
        return dice.choices(range(len(weights)), weights, k=count)


class AnnealedParticles(Particles):
    """Weights softened where few particles hold most of them, less so step by step.

    With ESS the effective number of N particles, and ESS / N < 0.5, the temperature is
    max(1, (N / ESS)(1 - t / T)) at step t of T.
    """

    def _temperature(self, logits: Sequence[float]) -> float:
        share = effective_share(softmax(logits))
        if share >= _FEW:
            return 1.0
        return max(1.0, (1.0 - self._steps / MAX_STEPS) / share)


def logit(probability: float) -> float:
    """log(p / (1 - p)), with p kept 1e-7 away from 0 and 1."""
    inside = min(1.0 - _CLIP, max(_CLIP, probability))
    return log(inside / (1.0 - inside))


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Weights in proportion to e^(logit / temperature) that add up to 1."""
    top = max(logits)
    weights = [exp((each - top) / temperature) for each in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def effective_share(weights: Sequence[float]) -> float:
    """The effective sample size, 1 / sum of squared weights, as a share of all."""
    return 1.0 / (sum(weight * weight for weight in weights) * len(weights))


def systematic(weights: Sequence[float], count: int, u: float) -> list[int]:
    """`count` places, at the positions (i + u) / count of the weights laid end to end.

    `weights` add up to 1, `u` is in [0, 1). A place with weight w is drawn floor(count w) or
    ceil(count w) times.
    """
    ends = list(accumulate(weights))
    last = len(weights) - 1
    return [min(last, bisect_right(ends, (i + u) / count)) for i in range(count)]
