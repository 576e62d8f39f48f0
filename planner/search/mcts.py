"""Monte Carlo tree search over steps, with the reward model's scores for values.

A simulation walks down from the query to a node that has room for another child and has that child
sampled, and from there a rollout to the end, so that each gives an answer. The mean of what both
score is added to every node on the way (Kocsis & Szepesvari 2006; values mixed as in Silver et al.
2016). Many run at once: one under way counts as a visit worth nothing (virtual loss), so that the
next walk goes elsewhere.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, log, sqrt

from planner.domain import Candidate, Expand, Path
from planner.search.base import Setup
from planner.search.tree import Tree, value

BRANCHES = 4
"""The children that a node is given."""
_ROLLOUT = BRANCHES
"""The last number in the path of a rollout, which no child has."""
_TRIES = 4
"""Simulations at most for each candidate wanted, should many fail."""
_UCT = sqrt(2)
_PUCT_BASE = 19_652
_PUCT_INIT = 1.25


@dataclass(slots=True)
class Node:
    """A node of the tree. `tries` and `total` are of those beneath it too, itself included."""

    parent: Node | None = None
    candidate: Candidate | None = None
    children: list[Node] = field(default_factory=list)
    started: int = 0
    """Children asked for so far, those that never came to be included."""
    tries: int = 0
    """Visits, and growths in flight beneath it."""
    flying: int = 0
    """Those in flight alone."""
    total: float = 0.0
    prior: float = 1.0
    """How likely the model thought its step, given its parent."""
    closed: bool = False
    """Whether nothing can be grown beneath it any more."""

    @property
    def mean(self) -> float:
        """The mean value, a growth in flight counting as nothing."""
        return self.total / max(1, self.tries)


class _Mcts(Tree):
    """The walk, the same for all rules of selection."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._branches = min(BRANCHES, setup.candidates)
        self._most = setup.candidates * _TRIES
        self._begun = 0
        self._root = Node()
        self._nodes: dict[Path, Node] = {(): self._root}

    @abstractmethod
    def _promises(self, parent: Node) -> Callable[[Node], float]:
        """How much a walk at the parent wants to go on to a child of it."""

    def _refill(self) -> None:
        # Each walk ends in a candidate. One that is being graded is still in flight.
        candidates = self._tally.finished - self._ungraded + self._root.flying
        if candidates >= self.setup.candidates or self._begun >= self._most:
            return
        node = self._root
        while not node.closed and node.started == self._branches:
            open_children = [child for child in node.children if not child.closed]
            if not open_children:  # what could be grown here is all in flight
                return
            node = max(open_children, key=self._promises(node))
        if not node.closed:
            self._begin_growth(node)

    def _begin_growth(self, node: Node) -> None:
        self._grow(node.candidate)
        self._begun += 1
        node.started += 1
        for above in _upwards(node):
            above.flying += 1
            above.tries += 1

    def _grown(self, node: Candidate) -> None:
        *above, last = node.path
        if last == _ROLLOUT:
            self._back_up(self._nodes[tuple(above)], value(node))
            return
        parent = self._nodes[tuple(above)]
        child = Node(parent, node, prior=_prior(node, parent.candidate), closed=node.finished)
        self._nodes[node.path] = child
        if node.finished:
            self._back_up(child, value(node))
        else:
            self._write(Expand((*node.path, _ROLLOUT), node))

    def _lost(self, task: Expand) -> None:
        *above, last = task.path
        node = self._nodes[tuple(above)]
        if last == _ROLLOUT and node.candidate:
            self._back_up(node, value(node.candidate))
            return
        for one in _upwards(node):
            one.flying -= 1
            one.tries -= 1
        self._close(node)

    def _back_up(self, child: Node, seen: float) -> None:
        """Adds what a walk has come to, to its new node and all above it."""
        parent = child.parent
        if parent is None or child.candidate is None:
            raise ValueError("The query itself is no child.")
        parent.children.append(child)
        parent.children.sort(key=_path)
        child.tries, child.total = 1, (value(child.candidate) + seen) / 2
        for above in _upwards(parent):
            above.flying -= 1
            above.total += child.total
        self._close(parent)

    def _close(self, node: Node | None) -> None:
        """Closes the node, and those above it, where nothing more can be grown beneath."""
        while (
            node is not None
            and node.started == self._branches
            and node.flying == 0
            and all(child.closed for child in node.children)
        ):
            node.closed = True
            node = node.parent

    @property
    def _exhausted(self) -> bool:
        return self._root.closed or self._begun >= self._most


class Mcts(_Mcts):
    """UCT: mean value + c sqrt(ln N_parent / N), c = sqrt 2."""

    def _promises(self, parent: Node) -> Callable[[Node], float]:
        walks = log(max(1, parent.tries))
        return lambda child: child.mean + _UCT * sqrt(walks / child.tries)


class PuctMcts(_Mcts):
    """PUCT (Silver et al. 2017; as in openr): a step the model thought likely is tried sooner.

    V + P sqrt(N_parent) / (N + 1) (ln((N_parent + 19653) / 19652) + 1.25), P being the geometric
    mean probability of the step's tokens.
    """

    needs_logprobs = True

    def _promises(self, parent: Node) -> Callable[[Node], float]:
        growing = log((parent.tries + _PUCT_BASE + 1) / _PUCT_BASE) + _PUCT_INIT
        weight = sqrt(parent.tries) * growing
        return lambda child: child.mean + child.prior * weight / (child.tries + 1)


def _upwards(node: Node | None) -> list[Node]:
    """The node and all above it."""
    way = []
    while node is not None:
        way.append(node)
        node = node.parent
    return way


def _prior(node: Candidate, parent: Candidate | None) -> float:
    """The geometric mean probability of the last step's tokens; 1 where it isn't known."""
    before = parent or Candidate(())
    tokens = len(node.token_ids) - len(before.token_ids)
    if node.logprob is None or tokens < 1:
        return 1.0
    return exp(min(0.0, (node.logprob - (before.logprob or 0.0)) / tokens))


def _path(node: Node) -> Path:
    return node.candidate.path if node.candidate else ()
