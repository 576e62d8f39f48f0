"""AB-MCTS-A (Inoue et al., arXiv 2503.04412; treequest): wider or deeper, by Thompson sampling.

Nodes are whole answers; the children of one are written from it, as corrections. At each node a
score is drawn for GEN, a new child, from what direct children scored, and one for CONT, going on
with a child there is, from what lies beneath the children. The higher one is done; after CONT the
child is chosen by a draw from the scores of each child's whole subtree.

What is in flight steers no draw, so the more there is of it, the wider the tree gets; with all N
at once nothing would ever be corrected. treequest therefore advises batches of 5. Here a quarter
of N is in flight at most, which is 4 of 16.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from dataclasses import dataclass, field
from math import cos, sqrt, tau

from planner.domain import Candidate, Expand, Path
from planner.search.base import Setup
from planner.search.correcting import Correcting
from planner.search.tree import value

_SIDE_BY_SIDE = 4
"""One in so many candidates may be in flight."""
_CONTENDERS = 32
"""A child is chosen among so many at most. Where there are more, they are taken at random: of
thousands of draws the highest would only tell which child was the luckiest."""


@dataclass(slots=True)
class _Scores:
    """What was observed: how many scores, their sum and the sum of their squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, score: float) -> None:
        self.count += 1
        self.total += score
        self.squares += score * score


@dataclass(slots=True)
class _Node:
    candidate: Candidate | None = None
    children: list[_Node] = field(default_factory=list)
    started: int = 0
    generated: _Scores = field(default_factory=_Scores)
    continued: _Scores = field(default_factory=_Scores)
    subtree: _Scores = field(default_factory=_Scores)


class _AbMcts(Correcting):
    """The walk, the same for both kinds of posterior."""

    _steers = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._nodes: dict[Path, _Node] = {(): _Node()}
        self._asked = 0
        self._open = 0
        """Growths that haven't been heard of."""
        self._most_open = max(1, setup.candidates // _SIDE_BY_SIDE)

    @abstractmethod
    def _draw(self, scores: _Scores, dice: random.Random) -> float:
        """A score from the posterior distribution of the mean score, given what was observed."""

    def _refill(self) -> None:
        if self._exhausted or self._open >= self._most_open:
            return
        self._asked += 1
        self._open += 1
        dice = random.Random(f"{self.setup.query.seed}/ab_mcts/{self._asked}")
        node = self._nodes[()]
        while node.children:
            wider = self._draw(node.generated, dice)
            if wider >= self._draw(node.continued, dice):
                break
            contenders = node.children
            if len(contenders) > _CONTENDERS:
                contenders = dice.sample(contenders, _CONTENDERS)
            node = max(contenders, key=lambda child: self._draw(child.subtree, dice))
        self._begin(node)

    def _begin(self, node: _Node) -> None:
        above = node.candidate
        path = (*(above.path if above else ()), node.started)
        node.started += 1
        if above is None:
            self._write(Expand(path))
        else:
            self._correct(path, [above])

    def _grown(self, node: Candidate) -> None:
        self._open -= 1
        score = value(node)
        made = _Node(node)
        made.subtree.add(score)
        self._nodes[node.path] = made
        parent = self._nodes[node.path[:-1]]
        parent.children.append(made)
        parent.generated.add(score)
        for depth in range(len(node.path)):
            above = self._nodes[node.path[:depth]]
            above.subtree.add(score)
            if above is not parent:
                above.continued.add(score)

    def _lost(self, task: Expand) -> None:
        self._open -= 1  # and it teaches nothing

    @property
    def _exhausted(self) -> bool:
        return self._asked >= self.setup.candidates


class GaussianAbMcts(_AbMcts):
    """Scores are Gaussian; the prior is a normal-inverse-chi-squared distribution.

    As in the paper's equation 12, what is drawn has the variance sigma^2 / kappa: it is where the
    mean score may lie, without the spread of single scores around that.
    """

    def _draw(self, scores: _Scores, dice: random.Random) -> float:
        mean, strength, freedom, spread = gaussian(scores.count, scores.total, scores.squares)
        return mean + sqrt(spread / strength) * student(freedom, dice)


class BetaAbMcts(_AbMcts):
    """A score counts as so much success and the rest as failure; the prior is Beta(1/2, 1/2)."""

    def _draw(self, scores: _Scores, dice: random.Random) -> float:
        return dice.betavariate(*beta(scores.count, scores.total))


def gaussian(count: int, total: float, squares: float) -> tuple[float, float, float, float]:
    """The posterior (m, kappa, nu, tau^2) after so many scores of this sum and sum of squares.

    The prior is m = 0, kappa = 1, nu = 1, tau^2 = 0.1.
    """
    prior_strength, prior_freedom, prior_spread = 1.0, 1.0, 0.1
    strength, freedom = prior_strength + count, prior_freedom + count
    if count == 0:
        return 0.0, strength, freedom, prior_spread
    mean = total / count
    within = max(0.0, squares - total * mean)
    between = prior_strength * count / strength * mean * mean
    return (
        total / strength,
        strength,
        freedom,
        (prior_freedom * prior_spread + within + between) / freedom,
    )


def student(freedom: float, dice: random.Random) -> float:
    """A draw from Student's t, by Bailey's polar method (Math. Comp. 62, 1994)."""
    radius = sqrt(freedom * ((1.0 - dice.random()) ** (-2.0 / freedom) - 1.0))
    return radius * cos(tau * dice.random())


def beta(count: int, total: float) -> tuple[float, float]:
    """The posterior's two parameters after so many scores in [0, 1] of this sum."""
    return 0.5 + total, 0.5 + count - total
