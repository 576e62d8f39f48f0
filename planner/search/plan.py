"""A plan as a DAG of steps, each a search of its own (LLMCompiler, arXiv 2312.04511).

A planner writes several plans; the one most faithful to the question is kept, and none that
leaves out, or makes up, much of what that says. A step begins as soon as what it needs is there,
beside all others that can; its answer is put into those that need it, and the last one answers the
question. Each has its share of what is left of the budget, by how hard it has turned out to be, and
one that is unsure gets more while there is more. Where a plan comes to an unsure answer, or to
none, the next best is followed. Where none can be made, the question is searched as it is; where
time or budget is nearly up, what steps have found is put to the question in one last pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

from planner.decompose.plan import Plan, Step, known_question, tells_facts
from planner.decompose.shares import divide, weight
from planner.domain import (
    Candidate,
    Finish,
    Message,
    News,
    Outcome,
    Path,
    Query,
    Result,
    Share,
    Stopped,
    Task,
    derive_seed,
)
from planner.prompts import conversation
from planner.search.attempt import Answered, Attempt
from planner.search.base import Setup
from planner.search.drafting import Drafting
from planner.search.inner import Inner, Outer, Recipe, first_in_turn

_FAIR = 4
"""The samples that each step of a plan should have before there is another plan."""
ATTEMPTS = 3
"""Plans that are followed at most: the best, and while it is unsure, the next."""
UNSURE = 0.5
"""A step or a plan with less confidence than this is unsure."""

_DRAFT, _WHOLE, _PLANS = 0, 1, 2
"""The first branch of a node: a plan's text, the question as it is, or the first plan followed."""


class PlanSearch(Outer):
    """Plans, and follows the best. `inner` makes the search of each step."""

    def __init__(self, setup: Setup, inner: Recipe) -> None:
        super().__init__(setup)
        self._inner = inner
        self._logprobs = inner.make(replace(setup, candidates=1)).needs_logprobs
        self._drafting = Drafting(setup, _DRAFT)
        self._attempts: list[Attempt] = []
        self._whole: list[Inner] = []
        """Searches of the question as it is: beside the plan, after it, or in its place."""
        self._dropped: set[int] = set()
        """Of the searches inside, by their place, those that nothing is wanted of any more."""
        self._notes: list[str] = []
        self._asking = setup.query
        """What is planned and asked: the query, or what a strategy has made of it since."""
        self._shares: dict[str, Share] = {}
        self._over = False
        self._hurried = False
        self._plan()

    # The contract

    @property
    def needs_logprobs(self) -> bool:
        return self._logprobs

    def ask(self, room: int) -> Sequence[Task]:
        if self._over:
            return []
        tasks = self._drafting.ask(room)
        return [*tasks, *first_in_turn(self._live(), room - len(tasks))]

    def tell(self, task: Task, result: Result) -> None:
        if self._drafting.took(task):
            self._spent += result.cost.completion_tokens
            self._tell_draft(result)
        elif self._tell_inner(task, result) is None:
            return
        self._go_on()

    def surplus(self) -> Sequence[Task]:
        if self._over:
            everything = [task for one in self._inners for task in one.all_in_flight()]
            return [*self._drafting.in_flight(), *everything]
        unwanted = self._drafting.in_flight() if self._hurried else []
        for place, one in enumerate(self._inners):
            unwanted += one.all_in_flight() if place in self._dropped else one.surplus()
        return unwanted

    @property
    def done(self) -> bool:
        return self._over

    @property
    def stopped(self) -> Stopped | None:
        if not self._over:
            return None
        if not self._attempts and len(self._whole) == 1:
            return self._whole[0].search.stopped or Stopped.COMPLETE
        return Stopped.COMPLETE

    def best(self) -> Outcome:
        outcome = self._planned() or self._unplanned() or self._unfinished()
        notes = dict.fromkeys((*self._notes, *outcome.notes))
        return replace(outcome, stopped=self.stopped, notes=tuple(notes))

    def shares(self) -> Mapping[str, Share]:
        if self._over:
            return {}
        shares = {**self._shares, **self._drafting.shares()}
        for one in self._whole:
            if not one.search.done:
                shares.update(one.shares())
        return shares

    def hurry(self) -> None:
        if self._over or self._hurried:
            return
        self._hurried = True
        self._drafting.stop()
        for attempt in self._attempts:
            self._drop(attempt)
        if self._planned() is not None:
            self._over = True
            return
        for one in self._live():
            one.search.hurry()
        if self._attempts or not self._fallback:
            self._last_pass("Time was nearly up")
        self._go_on()

    # Planning

    @property
    def _fallback(self) -> bool:
        """Whether the question is searched as it is, in the place of a plan."""
        drafting = self._drafting
        return not drafting.plans and not drafting.pending and bool(self._whole)

    def _plan(self) -> None:
        """Have plans written, if they can be afforded."""
        if not self._drafting.begin(conversation(self._asking.messages)):
            self._do_without("The budget is too small for a plan.")
        elif self.setup.timed and not self._whole:
            # Whatever becomes of the plan, there is an answer to give when time is up.
            self._begin_whole(self._asking, 1)

    def _tell_draft(self, result: Result) -> None:
        self._drafting.add(result)
        if self._drafting.pending or self._hurried:
            return
        self._drafting.judge(self._question(), self._plain(), self._candidates_left())
        if self._drafting.plans:
            self._attempt()
        elif not self._drafting.pending:
            self._do_without(self._drafting.note)

    def _do_without(self, note: str) -> None:
        """There is no plan: search the question as it is, or leave that to who only tries plans.

        What a plan has left of the question is for nobody else to search.
        """
        if not self.setup.trial or self._attempts:
            self._search_whole(note)
            return
        self._tell("planned", path=[_WHOLE], steps=[], notes=[note])
        self._over = True

    def _question(self) -> str:
        """What the last message asks."""
        return self._asking.messages[-1].content if self._asking.messages else ""

    def _plain(self) -> str:
        """The same without how sure the answers are that were put into it."""
        plain = self.setup.plain
        return self._question() if plain is None or self._asking is not self.setup.query else plain

    def _attempt(self) -> None:
        """Follow the next best plan."""
        worth, plan = self._drafting.plans.pop(0)
        plan = self._shaped(plan)
        attempt = Attempt(plan, _PLANS + len(self._attempts), worth)
        self._attempts.append(attempt)
        notes = [f"{worth:.0%} of the question's numbers and names are in it.", *plan.notes]
        if others := len(self._drafting.plans):
            notes.append(f"The best of {others + 1} that could be followed.")
        self._tell("planned", path=[attempt.branch], steps=self._described(attempt), notes=notes)

    def _described(self, attempt: Attempt) -> list[dict[str, Any]]:
        """The steps of a plan for the trace, each with the node that it lies under."""
        return [
            {
                "id": step.id,
                "question": step.question,
                "needs": list(step.needs),
                "path": [attempt.branch, place],
            }
            for place, step in enumerate(attempt.plan.steps)
        ]

    def _shaped(self, plan: Plan) -> Plan:
        """The plan as it is to be followed."""
        return plan

    # Following

    def _live(self) -> list[Inner]:
        """The searches inside that go on, in the order in which they were begun."""
        return [
            one
            for place, one in enumerate(self._inners)
            if place not in self._dropped and not one.search.done
        ]

    def _go_on(self) -> None:
        """After each tell: end what has ended, begin what can begin, see whether it is over."""
        if self._over:
            return
        while self._attempts and not self._hurried and self._follow(self._attempts[-1]):
            pass
        if self._hurried or (self._attempts and self._attempts[-1].failed) or not self._attempts:
            self._over = self._nothing_more()

    def _nothing_more(self) -> bool:
        """Whether there is neither a plan to come nor a search of the whole question."""
        if self._drafting.pending and not self._hurried:
            return False
        return not self._live()

    def _follow(self, attempt: Attempt) -> bool:
        """Take a plan as far as it goes now; whether another was begun instead."""
        if attempt.failed:
            return False
        for name, inner in list(attempt.running.items()):
            if inner.search.done and not self._widened(attempt, name, inner):
                self._end_step(attempt, name, inner)
        if attempt.ended:
            return self._end_attempt(attempt)
        for step in self._ready(attempt):
            if step.id not in attempt.running:
                self._begin_step(attempt, step)
        return False

    def _ready(self, attempt: Attempt) -> Sequence[Step]:
        """The steps that can be taken now."""
        return attempt.plan.ready(attempt.answered)

    def _begin_step(self, attempt: Attempt, step: Step) -> None:
        question = step.fill(attempt.answers)
        attempt.asked[step.id] = question
        attempt.put[step.id] = self._doubted(attempt, step, question)
        path = (attempt.branch, attempt.plan.steps.index(step))
        query = self._query(attempt, step, path)
        candidates = self._allot(attempt, step.id)
        attempt.allotted[step.id] = candidates
        share = f"{attempt.branch - _PLANS}.{step.id}"
        tokens = self._divide_tokens(attempt).get(step.id)
        likely = self._likely(question)
        setup = replace(
            self.setup,
            query=query,
            plain=question if self.setup.doubts else None,
            candidates=candidates,
            tokens=tokens,
            likely=likely,
            long=None,
            spent=0,
        )
        inner = Inner(self._inner.make(setup), path, query=query, share=share)
        self._inners.append(inner)
        attempt.running[step.id] = attempt.begun[step.id] = inner
        self._share_out()
        self._tell_step(attempt, step.id, "begun", inner)

    def _query(self, attempt: Attempt, step: Step, path: Path) -> Query:
        """What is asked of the search in a step."""
        query = self._asking
        given = tuple(one for one in query.messages if one.role == "system")
        told = self._told_before(attempt, step)
        return replace(
            query,
            messages=(*given, *told, Message("user", attempt.put[step.id])),
            seed=derive_seed(query.seed, path),
            code=query.code if step is attempt.plan.last else None,
        )

    def _doubted(self, attempt: Attempt, step: Step, question: str) -> str:
        """A step's question as it is put: where that is wanted, with how sure its answers are."""
        if not self.setup.doubts:
            return question
        before = [attempt.answered[need] for need in step.needs]
        if tells_facts(step.question):
            return step.fill({one.step.id: one.told(doubts=True) for one in before})
        return known_question(question, [(one.question, one.told(doubts=True)) for one in before])

    def _told_before(self, attempt: Attempt, step: Step) -> Sequence[Message]:
        """What stands in the conversation before a step's question: nothing."""
        return ()

    def _widened(self, attempt: Attempt, name: str, inner: Inner) -> bool:
        """Have a step go on that came out unsure, if it can and there is more to be had."""
        outcome = inner.search.best()
        left = self._candidates_left() // self._to_follow(attempt)
        spare = left - attempt.unbegun
        more = min(spare, attempt.allotted[name])
        if outcome.confidence >= UNSURE or more < 1:
            return False
        if not inner.search.widen(attempt.allotted[name] + more):
            return False
        attempt.allotted[name] += more
        self._share_out()
        self._tell_step(attempt, name, "again", inner)
        return not inner.search.done

    def _end_step(self, attempt: Attempt, name: str, inner: Inner) -> None:
        del attempt.running[name]
        step = next(step for step in attempt.plan.steps if step.id == name)
        outcome = inner.search.best()
        attempt.answered[name] = Answered(step, attempt.asked[name], outcome, inner.ranked())
        self._drop_inner(inner)
        self._share_out()
        self._tell_step(attempt, name, "ended", inner)
        if outcome.answer is None:
            attempt.failed = True

    def _end_attempt(self, attempt: Attempt) -> bool:
        """A plan has come to its end: follow another, put it together, or be done."""
        self._drop(attempt)
        unsure = attempt.last is None or attempt.confidence < UNSURE
        if unsure and self._another_affordable(attempt):
            self._attempt()
            return True
        if any(one.last is not None for one in self._attempts):
            self._over = True
        else:
            attempt.failed = True
            self._last_pass("A step of the plan came to no answer")
        return False

    def _another_affordable(self, attempt: Attempt) -> bool:
        """Whether there is another plan, and as much left for it as this one took."""
        plans = self._drafting.plans
        if not plans or len(self._attempts) >= ATTEMPTS:
            return False
        if len(plans[0][1].steps) > self._candidates_left():
            return False
        taken = sum(
            one.cost.completion_tokens
            for one in self._inners
            if one.share is not None and one.path[0] == attempt.branch
        )
        left = self._tokens_left()
        return left is None or left >= taken > 0

    def _drop(self, attempt: Attempt) -> None:
        """Have nothing more of a plan."""
        for inner in attempt.running.values():
            self._drop_inner(inner)
        attempt.running.clear()
        self._share_out()

    def _drop_inner(self, inner: Inner) -> None:
        self._dropped.add(self._inners.index(inner))

    # The question as it is

    def _search_whole(self, note: str) -> None:
        """Search the question as it is, in the place of a plan."""
        self._notes.append(note)
        self._tell("planned", path=[_WHOLE], steps=[], notes=[note])
        self._begin_whole(self._asking, max(1, self._candidates_left(kept=False)))

    def _begin_whole(self, query: Query, candidates: int) -> None:
        path = (_WHOLE, len(self._whole))
        setup = replace(
            self.setup,
            query=query,
            plain=self.setup.plain if query is self.setup.query else None,
            candidates=candidates,
            tokens=self._tokens_unspent(),
            spent=0,
        )
        own = None if query is self.setup.query else query
        inner = Inner(self._inner.make(setup), path, query=own)
        self._whole.append(inner)
        self._inners.append(inner)

    def _last_pass(self, why: str) -> None:
        """Answer the question from what its steps have found; in one pass, if time is short."""
        facts = [
            (one.question, one.told(doubts=self.setup.doubts))
            for attempt in self._attempts[-1:]
            for one in attempt.answered.values()
            if one.answer is not None
        ]
        if not facts and self._whole:
            return  # the question as it is has been asked already
        left = self._candidates_left(kept=False)
        if left < 1:
            return
        self._notes.append(f"{why}, so the question was answered from what was known.")
        query = self._asking
        *before, last = query.messages
        asking = replace(last, content=known_question(last.content, facts))
        self._begin_whole(replace(query, messages=(*before, asking)), 1 if self._hurried else left)

    # Shares

    def _candidates_left(self, *, kept: bool = True) -> int:
        """The candidates that nothing has been allotted yet; one is `kept` for a last pass."""
        taken = sum(attempt.taken for attempt in self._attempts)
        taken += sum(max(one.search.setup.candidates, one.candidates) for one in self._whole)
        return self.setup.candidates - taken - (1 if kept else 0)

    def _weights(self, attempt: Attempt) -> dict[str, float]:
        """Of all steps that haven't ended, how much of what is left each should have."""
        weights = {}
        for step in attempt.plan.steps:
            if step.id in attempt.answered:
                continue
            inner = attempt.running.get(step.id)
            begun = inner is not None and inner.search.progress()[0] > 0
            unsure = 1.0 - inner.search.best().confidence if inner is not None and begun else None
            weights[step.id] = weight(attempt.asked.get(step.id, step.question), unsure)
        return weights

    def _allot(self, attempt: Attempt, name: str) -> int:
        """The candidates for a step that is about to begin: its part of those that are left."""
        weights = self._weights(attempt)
        unbegun = {one: weights[one] for one in weights if one not in attempt.allotted}
        left = max(len(unbegun), self._candidates_left() // self._to_follow(attempt))
        return max(1, divide(left, unbegun)[name])

    def _to_follow(self, attempt: Attempt) -> int:
        """How many plans what is left is for: this one, and those that may be followed after."""
        more = max(0, min(ATTEMPTS - len(self._attempts), len(self._drafting.plans)))
        left = self._tokens_left()
        if left is not None:
            steps = (step for step in attempt.plan.steps if step.id not in attempt.answered)
            fair = _FAIR * sum(self._likely(step.question) or 1 for step in steps)
            more = min(more, left // max(1, fair) - 1)
        more = min(more, self._candidates_left() // (_FAIR * len(attempt.plan.steps)) - 1)
        return 1 + max(0, more)

    def _likely(self, question: str) -> int | None:
        """How many tokens an answer to a part of the question is likely to take."""
        if self.setup.likely is None:
            return None
        part = len(question) / max(1, len(self._plain()))
        return max(8, round(self.setup.likely * min(1.0, part)))

    def _tokens_left(self) -> int | None:
        """The tokens that nothing was spent of yet, less what a last pass is likely to take."""
        if self.setup.tokens is None:
            return None
        return max(0, self.setup.tokens - self._spent - (self.setup.likely or 0))

    def _divide_tokens(self, attempt: Attempt) -> dict[str, int]:
        """What each step that hasn't ended may spend from now on; nothing without a limit."""
        left = self._tokens_left()
        if left is None:
            return {}
        return divide(left // self._to_follow(attempt), self._weights(attempt))

    def _share_out(self) -> None:
        """Settle anew what each running step may spend in all."""
        self._shares = {}
        if not self._attempts:
            return
        attempt, whole = self._attempts[-1], self.setup
        tokens = self._divide_tokens(attempt)
        for name, inner in attempt.running.items():
            candidates = attempt.allotted[name]
            if whole.tokens is None:
                share = Share(None, candidates, candidates / whole.candidates)
            else:
                most = inner.cost.completion_tokens + tokens[name]
                share = Share(most, candidates, min(1.0, most / whole.tokens))
            self._shares[inner.share or ""] = share

    # What it comes to

    def _planned(self) -> Outcome | None:
        """The outcome of the plans that have come to an answer."""
        ended = [one for one in self._attempts if one.last is not None]
        if not ended:
            return None
        # Plans that agree are so many reasons to believe it.
        reasons: dict[str, float] = {}
        for one in ended:
            reasons[one.answer] = reasons.get(one.answer, 0.0) + one.worth * one.confidence
        first = max(ended, key=lambda one: (reasons[one.answer], -one.branch))
        last = first.last
        if last is None:
            return None
        same = [one for one in ended if one.answer == first.answer]
        doubt = prod(1.0 - one.worth * one.confidence for one in same)
        told = first.before_last
        ranked = tuple(_joined(told, candidate) for candidate in last.ranked)
        confidence = (1.0 - doubt) * len(same) / len(ended)
        return replace(last.outcome, ranked=ranked, confidence=confidence)

    def _unplanned(self) -> Outcome | None:
        """The outcome of the question as it is, of the latest search of it with an answer."""
        found = [(one, one.search.best()) for one in self._whole]
        found = [(one, outcome) for one, outcome in found if outcome.ranked]
        if not found:
            return None
        ended = [pair for pair in found if pair[1].ranked[0].finished]
        answering = [pair for pair in ended if pair[1].answer is not None]
        inner, outcome = (answering or ended or found)[-1]
        return replace(outcome, ranked=tuple(map(inner.rooted, outcome.ranked)))

    def _unfinished(self) -> Outcome:
        """As far as the latest plan has come, or the one before."""
        selector = self.setup.selector.name
        for attempt in reversed(self._attempts):
            told = [one for one in attempt.before_last if one.ranked]
            under = [one for one in self._inners if one.path[0] == attempt.branch]
            here = [ranked[0] for one in reversed(under) if (ranked := one.ranked())]
            if not here:
                continue
            before = [one for one in told if one.ranked[0] != here[0]]
            partial = replace(_joined(before, here[0]), answer=None, finish=Finish.CANCELLED)
            note = "The plan didn't come to its end; this is what was found until then."
            return Outcome((partial,), selector=selector, notes=(note,))
        return Outcome(selector=selector)

    # What it says

    def _tell(self, kind: Literal["planned", "step"], **data: Any) -> None:
        self._news.append(News(kind, data))

    def _tell_step(self, attempt: Attempt, name: str, state: str, inner: Inner) -> None:
        """Say how a step stands."""
        answered = attempt.answered.get(name)
        ended = (
            {}
            if answered is None
            else {
                "answer": answered.answer,
                "confidence": answered.outcome.confidence,
                "stopped": answered.outcome.stopped,
            }
        )
        share = self._shares.get(inner.share or "")
        self._tell(
            "step",
            path=list(inner.path),
            id=name,
            state=state,
            question=attempt.asked[name],
            strategy=self._inner.name,
            candidates=attempt.allotted[name],
            tokens=inner.cost.completion_tokens,
            share=None if share is None else share.completion_tokens,
            **ended,
        )


def _joined(before: Sequence[Answered], last: Candidate) -> Candidate:
    """A candidate of the last step with the work of those before it."""
    parts = [(one.question, one.ranked[0]) for one in before if one.ranked]
    text = "\n\n".join([*(f"{question}\n{one.text.strip()}" for question, one in parts), last.text])
    token_ids = tuple(token for _, one in parts for token in one.token_ids) + last.token_ids
    return replace(last, text=text, token_ids=token_ids)
