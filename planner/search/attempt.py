"""One plan being followed: which of its steps run, and what the others have come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from planner.decompose.plan import Plan, Step
from planner.domain import Candidate, Outcome
from planner.search.inner import Inner


@dataclass(frozen=True, slots=True)
class Answered:
    """What a step came to: the candidates of its outcome, best first, each with its answer."""

    step: Step
    question: str
    outcome: Outcome
    ranked: tuple[Candidate, ...]

    @property
    def answer(self) -> str | None:
        return self.outcome.answer

    def told(self, *, doubts: bool) -> str:
        """The answer for what builds on it; with `doubts` also how sure it is, to a tenth:
        a little more or less of that makes no other question of it.
        """
        answer = self.answer or ""
        return f"{answer} ({round(self.outcome.confidence, 1):.0%} sure)" if doubts else answer


@dataclass(slots=True)
class Attempt:
    """One plan being followed. `branch` is the node that it lies under."""

    plan: Plan
    branch: int
    worth: float
    """How faithful the plan is to the question, in [0, 1]."""
    running: dict[str, Inner] = field(default_factory=dict)
    begun: dict[str, Inner] = field(default_factory=dict)
    """Those of its steps that run, and all that ever did."""
    asked: dict[str, str] = field(default_factory=dict)
    """The question of each step that was begun, with the answers put in."""
    put: dict[str, str] = field(default_factory=dict)
    """The same as it was put to the model: with how sure the answers are, where that is wanted."""
    allotted: dict[str, int] = field(default_factory=dict)
    """The candidates that each of them may take."""
    answered: dict[str, Answered] = field(default_factory=dict)
    failed: bool = False

    @property
    def answers(self) -> dict[str, str]:
        """The answers there are, by step."""
        return {name: one.answer for name, one in self.answered.items() if one.answer is not None}

    @property
    def answer(self) -> str:
        """What it came to; nothing where it came to no answer."""
        return (self.last.answer or "") if self.last is not None else ""

    @property
    def taken(self) -> int:
        """The candidates that its steps have taken, those that run with all they may take."""
        return sum(
            max(inner.candidates, self.allotted[name] if name in self.running else 0)
            for name, inner in self.begun.items()
        )

    @property
    def unbegun(self) -> int:
        """How many of its steps were not begun."""
        return len(self.plan.steps) - len(self.asked)

    @property
    def last(self) -> Answered | None:
        """What the last step came to, where it has an answer."""
        found = self.answered.get(self.plan.last.id)
        return found if found is not None and found.answer is not None else None

    @property
    def before_last(self) -> list[Answered]:
        """What the steps before the last one came to, in the order of the plan."""
        steps = self.plan.steps[:-1]
        return [self.answered[step.id] for step in steps if step.id in self.answered]

    @property
    def ended(self) -> bool:
        """Whether it has come to an answer, or a step of it to none."""
        return self.failed or self.last is not None

    @property
    def confidence(self) -> float:
        """How likely all its steps are right, as far as they have come."""
        return prod(one.outcome.confidence for one in self.answered.values())
