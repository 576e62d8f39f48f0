"""Least-to-most prompting (Zhou et al., arXiv 2205.10625): easier questions first, in sequence.

The question is split as in a plan, but its steps are taken one after another, each in one
conversation with all questions before it and what was answered to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.decompose.plan import Plan, Step
from planner.domain import Message
from planner.search.attempt import Attempt
from planner.search.plan import PlanSearch


class LeastToMost(PlanSearch):
    """A plan in which every step needs all before it, and is shown how they were answered."""

    def _shaped(self, plan: Plan) -> Plan:
        names = [step.id for step in plan.steps]
        chained = (
            replace(step, needs=tuple(names[:place])) for place, step in enumerate(plan.steps)
        )
        return replace(plan, steps=tuple(chained))

    def _told_before(self, attempt: Attempt, step: Step) -> Sequence[Message]:
        told = []
        for name in step.needs:
            answered = attempt.answered[name]
            told.append(Message("user", attempt.put[name]))
            told.append(Message("assistant", answered.ranked[0].text))
        return told
