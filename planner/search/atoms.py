"""Atom of Thoughts (Teng et al., arXiv 2502.12018): a question made smaller until it is one step.

Of a plan only those steps are taken that need no others. What they found is put into the question,
which the planner writes anew, smaller and with the same answer; and that is planned in turn. A
question that can't be split, or was made smaller often enough, is searched as it is. Where what the
planner wrote isn't the question any more, the plan is followed to its end instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.decompose.plan import Plan, Step, faithfulness, known_question
from planner.domain import Candidate, Result
from planner.prompts import asked, contract_messages, conversation
from planner.search.attempt import Attempt
from planner.search.base import Setup
from planner.search.inner import Recipe
from planner.search.plan import PlanSearch

CONTRACTIONS = 3
"""How often a question is made smaller at most."""
_FAITHFUL = 0.7
"""A question written anew has to have so much of the numbers and names that remain."""


class Atoms(PlanSearch):
    """Steps that need nothing, then a smaller question, and so on."""

    def __init__(self, setup: Setup, inner: Recipe) -> None:
        self._contracting: Attempt | None = None
        """The plan whose question is being written anew."""
        self._contracted = 0
        self._as_planned: set[int] = set()
        """The plans, by their branch, that are followed to their end."""
        super().__init__(setup, inner)

    def _ready(self, attempt: Attempt) -> Sequence[Step]:
        roots = [step for step in attempt.plan.steps if not step.needs]
        if attempt.branch in self._as_planned or any(s.id not in attempt.answered for s in roots):
            ready = super()._ready(attempt)
            return ready if attempt.branch in self._as_planned else [s for s in ready if s in roots]
        if self._contracting is None:
            self._contracting = attempt
            self._contracted += 1
            facts = [(a.question, a.answer) for a in attempt.answered.values() if a.answer]
            *before, last = self._asking.messages
            known = replace(last, content=known_question(last.content, facts))
            self._drafting.write(asked(contract_messages(conversation([*before, known]))), 0.0)
        return []

    def _tell_draft(self, result: Result) -> None:
        attempt = self._contracting
        if attempt is None:
            super()._tell_draft(result)
        elif not self._hurried:
            self._contracting = None
            self._contract(attempt, result.candidate if result.status == "done" else None)

    def _contract(self, attempt: Attempt, made: Candidate | None) -> None:
        """Go on with the question as it was written anew, or follow the plan if it wasn't."""
        remaining = [step for step in attempt.plan.steps if step.id not in attempt.answered]
        filled = " ".join(step.fill(attempt.answers) for step in remaining)
        text = made.text.strip() if made is not None else ""
        worth = faithfulness(Plan((Step("a", text),)), filled) if text else 0.0
        if worth < _FAITHFUL or len(text) > len(self._plain()):
            self._as_planned.add(attempt.branch)
            self._tell(
                "planned",
                path=[attempt.branch],
                steps=self._described(attempt),
                notes=[f"The question couldn't be made smaller ({worth:.0%} of it was kept)."],
            )
            return
        attempt.failed = True
        self._drafting.plans = []
        *before, last = self._asking.messages
        self._asking = replace(self._asking, messages=(*before, replace(last, content=text)))
        if self._contracted < CONTRACTIONS:
            self._plan()
        else:
            self._search_whole("The question was made smaller often enough.")
