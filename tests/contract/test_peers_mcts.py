"""UCT beside treequest's: the same tree and the same growths in flight lead to the same node.

treequest also multiplies the exploration by a softmax over the siblings' scores. UCT (Kocsis and
Szepesvari 2006) has no such prior, so it's given none. It selects leaves only, so that what walks
here is its score of a child; and it knows no virtual loss, so a growth in flight is put down as a
visit that brought nothing.
"""

from __future__ import annotations

import random

import pytest
from treequest import StandardMCTS
from treequest.algos.tree import Node as TheirNode

from planner.domain import Candidate, Expand, Finish, Grade, Message, Path, Query, Result
from planner.search import Setup
from planner.search.mcts import BRANCHES, Mcts
from planner.selection import selector
from planner.stopping import parse

TREES, WIDTH = 60, 60
"""Random trees, and the simulations in each: one decision a simulation."""


class SideBySide:
    """Ours grows a tree with random scores; theirs is shown each change and asked where next."""

    def __init__(self, seed: int, most_in_flight: int) -> None:
        self.dice = random.Random(seed)
        self.most = most_in_flight
        query = Query((Message("user", "How many?"),), seed=seed)
        stop = parse("none")
        self.ours = Mcts(Setup(query, WIDTH, selector("best"), stop, grades=True))
        self.rule = StandardMCTS[Path]()
        self.theirs = self.rule.init_tree()
        self.nodes: dict[Path, TheirNode[Path]] = {(): self.theirs.tree.root}
        self.begun: dict[Path, int] = {(): 0}
        self.values: dict[Path, float] = {}
        """What the first steps scored whose rollouts are on their way."""
        self.decisions = 0

    def run(self) -> None:
        flying: list[Expand] = []
        while not self.ours.done:
            room = self.most - len(flying)
            for task in self.ours.ask(1 if room else 0):
                assert isinstance(task, Expand)
                flying.append(task)
                if task.until == "step":
                    self.check(task)
            if len(flying) == self.most or self.dice.random() < 0.3:
                self.end(flying.pop(self.dice.randrange(len(flying))))

    def check(self, task: Expand) -> None:
        """They would have walked there too."""
        node = self.theirs.tree.root
        while self.begun[node.state or ()] == BRANCHES:
            promise = {
                child.state: self.rule._uct_score(self.theirs, child, node)
                for child in node.children
            }
            best = max(promise, key=promise.__getitem__)
            assert best is not None
            node = self.nodes[best]
        assert task.path[:-1] == (node.state or ())
        self.decisions += len(task.path) > 1
        self.begun[node.state or ()] += 1
        self.visit(node, 1)

    def end(self, task: Expand) -> None:
        """Ends a step or the rollout after it, and grades it."""
        finish = Finish.STEP if task.until == "step" else Finish.STOP
        made = Candidate(task.path, "#### 1", (1,), finish)
        self.ours.tell(task, Result(task.id, "done", made))
        (grade,) = self.ours.ask(1)
        assert isinstance(grade, Grade)
        score = self.dice.random()
        self.ours.tell(grade, Result(grade.id, "done", made.graded((score,), score)))
        if task.until == "step":
            self.values[task.path] = score
        else:
            path = task.path[:-1]
            self.back_up(path, (self.values.pop(path) + score) / 2)

    def back_up(self, path: Path, value: float) -> None:
        """The new node has a visit of its own; those above had theirs when it set out."""
        parent = self.nodes[path[:-1]]
        child = self.theirs.tree.add_node((path, value), parent)
        self.nodes[path], self.begun[path] = child, 0
        self.rule._backpropagate(self.theirs, child, value)
        self.visit(parent, -1)

    def visit(self, node: TheirNode[Path] | None, times: int) -> None:
        """So many more visits of the node and of all above it."""
        while node is not None:
            place = node.expand_idx
            self.theirs.visit_counts[place] = self.theirs.visit_counts.get(place, 0) + times
            node = node.parent


@pytest.mark.parametrize("most_in_flight", [1, 5])
def test_walks_go_where_treequest_goes(most_in_flight: int) -> None:
    """One after another and several at once, in trees that grow by thousands of nodes."""
    decisions = 0
    for seed in range(TREES):
        both = SideBySide(seed, most_in_flight)
        both.run()
        decisions += both.decisions
    assert decisions > TREES * WIDTH * 0.8
