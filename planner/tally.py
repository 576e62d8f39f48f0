"""The tally: finished candidates, grouped by their canonical answer.

Counting a candidate or its grade takes constant time whatever is there already, and merging two
answers that turn out to be one takes time in proportion to the answers. The same tally comes of it
in whatever order candidates come and answers are merged; `streak` alone tells of the order.

A candidate counts as often as it is added: one that a strategy has copied votes once for each copy.
A score or a confidence that is no finite number is none: it would outweigh, or spoil, all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

from planner.answers import answer_of, canonical
from planner.confidence import own_confidence
from planner.domain import Candidate, Finish, Path, Vote


@dataclass(slots=True)
class Group:
    """The candidates that give one answer (or none, where `answer` is None)."""

    answer: str | None
    count: int = 0
    graded: int = 0
    score_sum: float = 0.0
    confident: int = 0
    confidence_sum: float = 0.0
    first: Path = ()
    best: Candidate = field(default_factory=lambda: Candidate(()))

    @property
    def best_score(self) -> float:
        """The highest score in the group; 0 where nothing is graded."""
        return self.best.score or 0.0

    def vote(self) -> Vote:
        """The group as the reply shows it."""
        return Vote(self.answer or "", self.count, self.score_sum if self.graded else None)

    def _take(self, candidate: Candidate) -> None:
        """Let `candidate` stand for the group if it scores higher, or as high and comes first."""
        if self._rank(candidate) < self._rank(self.best):
            self.best = candidate

    def _absorb(self, other: Group) -> None:
        """Take over all that `other` has counted."""
        self.count += other.count
        self.graded += other.graded
        self.score_sum += other.score_sum
        self.confident += other.confident
        self.confidence_sum += other.confidence_sum
        self.first = min(self.first, other.first)
        self._take(other.best)

    @staticmethod
    def _rank(candidate: Candidate) -> tuple[float, Path]:
        return (-1.0 if candidate.score is None else -2.0 - candidate.score, candidate.path)


@dataclass(slots=True)
class Tally:
    """All that has finished. `groups` vote; `silent` are the candidates that give no answer.

    With `code` an answer is the code in a candidate's last fenced block.
    """

    code: bool = False
    groups: dict[str, Group] = field(default_factory=dict)
    silent: Group | None = None
    finished: int = 0
    graded: int = 0
    confident: int = 0
    """How many of them came with log-probabilities."""
    confidence_sum: float = 0.0
    """The sum of their lowest group confidences."""
    doubtful: int = 0
    """How many were given up because the model was unsure of them; they aren't among the others."""
    partial: Candidate | None = None
    """The longest candidate that was cut, to fall back on where nothing finished."""

    leader_count: int = 0
    """The most votes that any answer has."""
    runner_up_count: int = 0
    """The most votes that any other answer has."""
    streak: int = 0
    """How many of the latest candidates, one after another, gave the answer that the last one did;
    0 where that gave none."""
    _new: list[str] = field(default_factory=list, compare=False)
    """Answers whose groups came to be since somebody last asked for them."""
    _ungraded: dict[Path, str | None] = field(default_factory=dict, compare=False)
    """What the candidates answer that have no grade yet, so that it isn't looked for twice."""
    _leader: Group | None = None
    _latest: Group | None = None
    _names: dict[str, str] = field(default_factory=dict)
    """Canonical answers that go by the name of another one that they equal."""

    @property
    def voters(self) -> int:
        """How many candidates give an answer."""
        return self.finished - (self.silent.count if self.silent else 0)

    def add(self, candidate: Candidate) -> None:
        """Count a candidate that has ended; one that was only cut is kept as a last resort."""
        if not candidate.finished:
            self.doubtful += candidate.finish is Finish.DOUBTFUL
            if self.partial is None or _longer(candidate, self.partial):
                self.partial = candidate
            return
        if candidate.score is not None and not isfinite(candidate.score):
            candidate = replace(candidate, score=None)
        self.finished += 1
        answer = answer_given(candidate, code=self.code)
        group = self._group(answer)
        group.count += 1
        if group.count == 1:
            group.first, group.best = candidate.path, candidate
        else:
            group.first = min(group.first, candidate.path)
            group._take(candidate)
        if candidate.score is not None:
            self._score(group, candidate.score)
        else:
            self._ungraded[candidate.path] = answer
        self._follow(group)
        if candidate.token_confidences:
            self._trust(group, own_confidence(candidate.token_confidences))
        if group.answer is not None:
            self._lead(group)

    def keep(self, candidate: Candidate) -> None:
        """Keep something that is no answer as a last resort, if it is the longest such."""
        if self.partial is None or _longer(candidate, self.partial):
            self.partial = candidate

    def grade(self, candidate: Candidate) -> None:
        """Count the grade of a candidate that was added without one."""
        if candidate.score is None or not isfinite(candidate.score) or not candidate.finished:
            return
        if candidate.path in self._ungraded:
            answer = self._ungraded.pop(candidate.path)
        else:
            answer = answer_given(candidate, code=self.code)
        group = self._group(answer)
        self._score(group, candidate.score)
        group._take(candidate)

    def only(self, candidates: Iterable[Candidate]) -> Tally:
        """A tally of these candidates alone, with what this one knows of equal answers."""
        tally = Tally(self.code, partial=self.partial, _names=dict(self._names))
        for candidate in candidates:
            tally.add(candidate)
        return tally

    def take_new(self) -> Sequence[str]:
        """The answers that nobody had given when this was last called."""
        taken, self._new = self._new, []
        return taken

    def name(self, answer: str) -> str:
        """The canonical answer by whose name the group goes that `answer` belongs to."""
        return self._names.get(answer, answer)

    def merge(self, one: str, other: str) -> None:
        """Let two canonical answers be one from now on, whatever has given them or will.

        The group goes by the shortest of its answers, of several the first in order.
        """
        names = {self.name(one), self.name(other)}
        if len(names) == 1:
            return
        kept, gone = sorted(names, key=lambda answer: (len(answer), answer))
        for alias, name in self._names.items():
            if name == gone:
                self._names[alias] = kept
        self._names[gone] = kept
        merged = self.groups.pop(gone, None)
        if merged is None:
            return
        if kept in self.groups:
            self.groups[kept]._absorb(merged)
            if self._latest is merged:
                self._latest = self.groups[kept]
        else:
            merged.answer = kept
            self.groups[kept] = merged
        self._recount()

    def _group(self, answer: str | None) -> Group:
        if answer is None:
            if self.silent is None:
                self.silent = Group(None)
            return self.silent
        name = self.name(answer)
        if name not in self.groups:
            self.groups[name] = Group(name)
            self._new.append(name)
        return self.groups[name]

    def _score(self, group: Group, score: float) -> None:
        self.graded += 1
        group.graded += 1
        group.score_sum += score

    def _follow(self, group: Group) -> None:
        if group.answer is None:
            self.streak = 0
        else:
            self.streak = self.streak + 1 if group is self._latest else 1
        self._latest = group

    def _trust(self, group: Group, confidence: float) -> None:
        if not isfinite(confidence):
            return
        self.confident += 1
        self.confidence_sum += confidence
        group.confident += 1
        group.confidence_sum += confidence

    def _recount(self) -> None:
        """Find the first two again, after counts have changed otherwise than one by one."""
        self._leader, self.leader_count, self.runner_up_count = None, 0, 0
        for group in self.groups.values():
            self._lead(group)

    def _lead(self, group: Group) -> None:
        # Counts only grow, so only the group that grew can have changed the first two.
        if group is self._leader:
            self.leader_count = group.count
        elif group.count > self.leader_count:
            self.runner_up_count = self.leader_count
            self._leader, self.leader_count = group, group.count
        elif group.count > self.runner_up_count:
            self.runner_up_count = group.count


def answer_given(candidate: Candidate, *, code: bool = False) -> str | None:
    """The canonical answer that a candidate gives, or None where it gives none."""
    if candidate.answer is not None:
        return canonical(candidate.answer) or None
    return answer_of(candidate.text, ended=candidate.finish is Finish.STOP, code=code)


def _longer(one: Candidate, other: Candidate) -> bool:
    return (len(one.text), other.path) > (len(other.text), one.path)
