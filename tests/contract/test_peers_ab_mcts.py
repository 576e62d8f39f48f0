"""AB-MCTS-A beside treequest, the library of its authors: the same posteriors, draws and walks."""

from __future__ import annotations

import random
from collections import deque
from math import isclose

import numpy as np
import pytest
from treequest import ABMCTSA
from treequest.algos.ab_mcts_a.algo import ABMCTSAAlgoState
from treequest.algos.ab_mcts_a.prob_state import PriorConfig, ProbabilisticDist
from treequest.trial import Trial

from planner.domain import Candidate, Expand, Finish, Grade, Message, Path, Query, Result
from planner.search import Setup
from planner.search.ab_mcts import BetaAbMcts, GaussianAbMcts, beta, gaussian
from planner.search.ab_mcts import _Scores as Scores
from planner.selection import selector
from planner.stopping import parse

REWARDS = 1_500
"""Random lists of rewards, of each kind."""
SEARCHES, WIDTH = 40, 32
"""Random searches, of each kind, and the decisions in each."""
DRAWS = 3_000
SIGMAS = 5

KINDS = pytest.mark.parametrize(
    ("kind", "name"), [(GaussianAbMcts, "gaussian"), (BetaAbMcts, "beta")]
)
Kind = type[GaussianAbMcts] | type[BetaAbMcts]


def setup(seed: int) -> Setup:
    query = Query((Message("user", "How many?"),), seed=seed)
    return Setup(query, WIDTH, selector("best"), parse("none"), grades=True)


def reward(dice: random.Random) -> float:
    """Anything in [0, 1], and the ends more often than anything else."""
    return dice.choice((0.0, 1.0, dice.random(), dice.random(), dice.random()))


def told(name: str, rewards: list[float]) -> ProbabilisticDist:
    """What treequest makes of these rewards."""
    posterior = ProbabilisticDist(PriorConfig(dist_type=name))
    for each in rewards:
        posterior.tell_observation(each)
    return posterior


def ours(name: str, count: int, total: float, squares: float) -> tuple[float, ...]:
    """Our posterior, its parameters in treequest's order."""
    return gaussian(count, total, squares) if name == "gaussian" else beta(count, total)


def close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["gaussian", "beta"])
def test_posteriors_are_the_same(name: str) -> None:
    """For any list of rewards, none and many equal ones included."""
    dice = random.Random(11)
    for _ in range(REWARDS):
        rewards = [reward(dice) for _ in range(dice.randrange(25))]
        squares = sum(each * each for each in rewards)
        mine = ours(name, len(rewards), sum(rewards), squares)
        assert close(mine, tuple(told(name, rewards).params.values())), rewards


@KINDS
def test_draws_have_the_same_distribution(kind: Kind, name: str) -> None:
    """As many of ours as of theirs lie below any bound, within five standard deviations."""
    np.random.seed(12)  # what treequest draws from
    dice = random.Random(12)
    under = kind(setup(0))
    for rewards in ([], [0.2], [0.2, 0.8, 0.5], [0.9] * 8, [reward(dice) for _ in range(30)]):
        scores = Scores()
        for each in rewards:
            scores.add(each)
        posterior = told(name, rewards)
        theirs = sorted(posterior.draw_sample() for _ in range(DRAWS))
        mine = [under._draw(scores, dice) for _ in range(DRAWS)]
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            below = sum(each < theirs[int(share * DRAWS)] for each in mine) / DRAWS
            spread = (2 * share * (1 - share) / DRAWS) ** 0.5  # both sides are samples
            assert abs(below - share) < SIGMAS * spread, (rewards, share, below)


class SideBySide:
    """One search in both libraries. What ours draws, theirs is given to decide by.

    Theirs must stand before the same posterior at each draw. At a node without children theirs
    draws too, and heeds nothing of it; ours doesn't.
    """

    def __init__(self, kind: Kind, name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = name
        self.dice = random.Random(seed)
        self.ours = kind(setup(seed))
        self.rule = ABMCTSA[str](dist_type="gaussian" if name == "gaussian" else "beta")
        self.theirs: ABMCTSAAlgoState[str] = self.rule.init_tree()
        self.paths: list[Path] = []
        """Of their nodes, in the order in which they came to be."""
        self.drawn: deque[tuple[tuple[float, ...], float]] = deque()
        self.deep = 0
        draw = kind._draw

        def keep(search: GaussianAbMcts | BetaAbMcts, seen: Scores, dice: random.Random) -> float:
            value: float = draw(search, seen, dice)  # type: ignore[arg-type]
            self.drawn.append((ours(name, seen.count, seen.total, seen.squares), value))
            return value

        def replay(posterior: ProbabilisticDist) -> float:
            return self.replay(posterior)

        monkeypatch.setattr(kind, "_draw", keep)
        monkeypatch.setattr(ProbabilisticDist, "draw_sample", replay)

    def replay(self, posterior: ProbabilisticDist) -> float:
        if not self.drawn:
            return 0.0
        mine, value = self.drawn.popleft()
        assert close(mine, tuple(posterior.params.values()))
        return value

    def run(self) -> None:
        """With one to four growths in flight, which end in any order."""
        flying: list[tuple[Expand, Trial[str]]] = []
        while not self.ours.done:
            if len(flying) < self.dice.randint(1, 4):
                flying += self.decide()
            if flying:
                self.end(*flying.pop(self.dice.randrange(len(flying))))

    def decide(self) -> list[tuple[Expand, Trial[str]]]:
        asked = self.ours.ask(1)
        if not asked:
            return []
        (task,) = asked
        assert isinstance(task, Expand)
        self.theirs, (trial,) = self.rule.ask_batch(self.theirs, 1, ["write"])
        place = trial.node_to_expand
        assert task.path[:-1] == (self.paths[place] if place >= 0 else ())
        assert not self.drawn
        self.deep += len(task.path) > 1
        return [(task, trial)]

    def end(self, task: Expand, trial: Trial[str]) -> None:
        made = Candidate(task.path, "#### 1", (1,), Finish.STOP)
        self.ours.tell(task, Result(task.id, "done", made))
        (grade,) = self.ours.ask(1)
        assert isinstance(grade, Grade)
        score = reward(self.dice)
        self.ours.tell(grade, Result(grade.id, "done", made.graded((score,), score)))
        self.theirs = self.rule.tell(self.theirs, trial.trial_id, ("an answer", score))
        self.paths.append(task.path)


@KINDS
def test_walks_are_the_same(kind: Kind, name: str) -> None:
    """Given the same draws, both widen the tree at the same place, decision by decision."""
    deep = 0
    for seed in range(SEARCHES):
        with pytest.MonkeyPatch.context() as monkeypatch:
            both = SideBySide(kind, name, seed, monkeypatch)
            both.run()
        assert len(both.paths) == WIDTH
        deep += both.deep
    assert SEARCHES * WIDTH / 5 < deep < SEARCHES * WIDTH  # both ways were taken, and often
