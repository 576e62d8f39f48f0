"""Decides as it goes: a few samples first, then whatever more compute is likely to gain most by.

Two samples that agree, and score well, are enough. Else it looks at what there is to gain: more
samples where they lean to one answer, a tree where scores tell good from bad, a plan where the
samples are lost in the question (two drafts tell whether it can be taken apart), a judge where
there are no answers to vote on. What is gained is estimated from what this request has seen and
from what past ones have (`planner.outlook`), and weighed against the tokens it may take; it stops
where nothing is worth its price. That compute should go where it helps is Snell et al.'s (arXiv
2408.03314) and Damani et al.'s (2410.04707).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import prod

from planner.domain import Candidate, News, Outcome, Path, Result, Share, Stopped, Task
from planner.outlook import Action, Lesson, Situation
from planner.search.base import Setup
from planner.search.inner import Inner, Outer, Recipe, first_in_turn
from planner.stopping.marginal import gain_a_candidate

PROBES = 2
"""The samples it begins with."""
_FEW = 5.0
"""Who can't pay for so many samples is best served by all of them at once, side by side."""
GOOD = 0.9
"""A score from which on a candidate scores well."""
_TELLING = 0.3
"""Scores that differ by so much tell good from bad."""
_MOST = 0.75
"""Where so many of the samples say the same, and it is the best answer, they lean to it, however
badly it scores."""
PRICE = 0.032
"""The accuracy that all the samples it may take would have to gain together.

Whoever lets it take more of them thinks less of the price of one.
"""
_HORIZON = 10.0
"""What is expected of an action is what it gains by so many samples' worth of tokens."""
_LEAST = 0.75
"""As little as this part of a likely sample may be enough for one."""
_WIDER = 4
"""Samples are widened to so many times as many, and seen again, while that promises something."""
_TREE = 16
"""A tree wider than this is no better."""
_PATIENT = 32.0
"""Who may take so many more samples sees two more of them before a plan is tried."""
_PLAN_WORTH = 4.0
_TREE_WORTH = 4.0
"""A plan takes at least so many samples' worth of tokens, and so does a tree."""

_PARTS = 4
"""Where only what a plan takes is limited, its steps may have so many times the candidates."""

_WAYS: tuple[Action, ...] = ("widen", "tree", "decompose", "judge")


class Auto(Outer):
    """`recipes` has the strategies it decides between: `probe`, `tree`, `decompose` and `judge`."""

    def __init__(self, setup: Setup, recipes: Mapping[str, Recipe]) -> None:
        super().__init__(setup)
        self._recipes = recipes
        self._lessons: list[Lesson] = []
        self._taken: list[tuple[Action, Situation, str | None, int]] = []
        """Each decision with the situation, the answer and the tokens spent before it."""
        self._ways: dict[Path, str] = {}
        """Which of the recipes each search was made by, by the node that it lies under."""
        self._scores: dict[Path, float] = {}
        self._sampled = 0
        """The tokens of the samples, and how many have ended."""
        self._ended = 0
        self._over = False
        self._hurried = False
        probes = setup.candidates if self._few() else min(PROBES, setup.candidates)
        self._samples = self._begin("probe", probes)
        why = "As many samples as can be paid for." if self._few() else f"{probes} samples first."
        self._decided("probe", why, {})

    # The contract

    @property
    def needs_logprobs(self) -> bool:
        return self._samples.search.needs_logprobs

    def ask(self, room: int) -> Sequence[Task]:
        return [] if self._over else first_in_turn(self._live(), room)

    def tell(self, task: Task, result: Result) -> None:
        teller = self._tell_inner(task, result)
        if teller is None:
            return
        made = result.candidate
        if teller is self._samples:
            if made is not None and made.finished and task.id.startswith("expand:"):
                self._sampled += len(made.token_ids)
                self._ended += 1
            if made is not None and made.score is not None:
                self._scores[made.path] = made.score
        if not self._over and not self._live():
            self._decide()

    def surplus(self) -> Sequence[Task]:
        if self._over:
            return [task for one in self._inners for task in one.all_in_flight()]
        return [task for one in self._inners for task in one.surplus()]

    @property
    def done(self) -> bool:
        return self._over

    @property
    def stopped(self) -> Stopped | None:
        if not self._over:
            return None
        if self._samples.search.stopped is Stopped.CONFIDENT:
            return Stopped.CONFIDENT  # they may have gone on after what was tried last
        return self._inners[-1].search.stopped or Stopped.COMPLETE

    def best(self) -> Outcome:
        found = self._found()
        if not found:
            return replace(self._samples.search.best(), stopped=self.stopped)
        votes = found[0][1].votes if found[0][0] is self._samples else ()
        if len(votes) > 1 and max(vote.count for vote in votes) == 1:
            # Of samples of which no two agree, the first is no better than any other answer.
            after = [(one, it) for one, it in found if one is not self._samples and it.answer]
            found = after or found
        return replace(_together(found), stopped=self.stopped)

    def _found(self) -> list[tuple[Inner, Outcome]]:
        """What each search has come to, those that have come to anything, with what it's worth."""
        found = [(one, one.search.best()) for one in self._inners]
        return [(one, self._weighed(one, outcome)) for one, outcome in found if outcome.ranked]

    def _weighed(self, inner: Inner, outcome: Outcome) -> Outcome:
        """The outcome with the confidence that such outcomes deserve: strategies differ in it."""
        strategy = self._recipes[self._ways[inner.path]].strategy
        belief = self.setup.outlook.belief(strategy, self.setup.selector.name, outcome)
        return replace(outcome, confidence=belief)

    def hurry(self) -> None:
        self._hurried = True
        for one in self._live():
            one.search.hurry()
        if not self._over and not self._live():
            self._over = True

    def shares(self) -> Mapping[str, Share]:
        return {} if self._over else {n: s for one in self._live() for n, s in one.shares().items()}

    def lessons(self) -> Sequence[Lesson]:
        return self._lessons

    # Deciding

    def _live(self) -> list[Inner]:
        return [one for one in self._inners if not one.search.done]

    def _decide(self) -> None:
        """Choose how to go on, now that nothing runs; until something does, or it is over."""
        while not self._live():
            outcome = self.best()
            self._learn(outcome)
            situation = self._situation(outcome)
            action, why, figures = self._choice(situation, outcome)
            self._decided(action or "stop", why, figures)
            if action is None:
                self._over = True
                return
            self._taken.append((action, situation, outcome.answer, self._spent))
            if not self._take(action):
                self._over = True
                return

    def _situation(self, outcome: Outcome) -> Situation:
        """What the samples have shown, the first of them alone or all there are."""
        cast = sum(vote.count for vote in outcome.votes)
        if outcome.silent > cast or not outcome.votes:
            return "silent"
        first = outcome.votes[0]
        well = first.score is None or first.score / max(1, first.count) >= GOOD
        if first.count == cast >= PROBES and not outcome.silent:
            # Where all say the same that is a reason to believe it, whatever it scores.
            sure = well and (first.score is not None or cast > PROBES)
            return "agree" if sure else "lean"
        if first.count > PROBES and first.count >= _MOST * cast:
            return "lean"  # and so it is where nearly all do
        if not well or first.count == 1:
            return "lost"
        return "lean" if 2 * first.count > cast else "split"

    def _choice(
        self, situation: Situation, outcome: Outcome
    ) -> tuple[Action | None, str, Mapping[Action, float]]:
        """The action that is worth most, or None; why; and what each is worth."""
        if self._hurried:
            return None, "Time was nearly up.", {}
        if self._samples.search.stopped is Stopped.CONFIDENT:
            return None, "The samples satisfied the stopping rule.", {}
        likely = self._likely
        tokens = None if self.setup.tokens is None else self.setup.tokens - self._spent
        most = self._candidates_left()
        worth = float(most) if tokens is None else min(float(most), tokens / likely)
        price = PRICE / self.setup.candidates
        figures: dict[Action, float] = {}
        for action in _WAYS:
            if self._possible(action, situation, worth):
                samples = min(worth, _HORIZON)
                gain = self.setup.outlook.gain(situation, action) / _HORIZON
                if action == "widen" and self._widened:
                    gain = min(gain, self._seen_gain(most))
                gain = min(gain * samples, 1.0 - outcome.confidence)
                figures[action] = round(gain - price * samples, 4)
        best = max(figures, key=lambda action: figures[action], default=None)
        if best is None:
            return None, "Nothing more can be afforded.", figures
        if figures[best] <= 0.0:
            return None, f"The answers {_SAID[situation]}, and nothing is worth its price.", figures
        return best, f"The answers {_SAID[situation]}, so to {best} promises most.", figures

    def _seen_gain(self, remaining: int) -> float:
        """What one more sample is expected to gain, by the votes there are."""
        votes = self._samples.search.best().votes
        first, second = (*sorted((vote.count for vote in votes), reverse=True), 0, 0)[:2]
        return gain_a_candidate(first, second, sum(vote.count for vote in votes), remaining)

    def _possible(self, action: Action, situation: Situation, worth: float) -> bool:
        """Whether there is something to do it with, and it wasn't done already."""
        if worth < _LEAST or any(action == taken for taken, *_ in self._taken if action != "widen"):
            return False
        # Two samples say little: there are as many again before much else is tried. And whether a
        # lead holds takes fewer than a tree does.
        early = self._widened < (2 if situation == "lean" else 1)
        match action:
            case "widen":
                return True
            case "tree":
                scores = self._scores.values()
                telling = len(scores) > 1 and max(scores) - min(scores) >= _TELLING
                return self.setup.grades and telling and worth >= _TREE_WORTH and not early
            case "decompose":
                # A few plans say whether the question can be taken apart at all.
                soon = situation == "lost" and worth < _PATIENT
                return worth >= _PLAN_WORTH and (not early or soon)
            case "judge":
                return worth >= 2.0

    def _few(self) -> bool:
        """Whether the tokens there are bring only a few samples to their ends, or not even one."""
        tokens, likely = self.setup.tokens, self.setup.likely
        return tokens is not None and likely is not None and tokens < _FEW * likely

    @property
    def _widened(self) -> int:
        return sum(action == "widen" for action, *_ in self._taken)

    def _take(self, action: Action) -> bool:
        """Begin what was decided; whether that could be done."""
        left = self._candidates_left()
        if action == "widen":
            have = self._samples.search.setup.candidates
            more = PROBES if have == PROBES else (_WIDER - 1) * have
            return self._samples.search.widen(have + min(left, more))
        if action == "tree":
            left = min(left, _TREE)
        self._begin(action, left)
        return True

    def _begin(self, name: str, candidates: int) -> Inner:
        tokens = self._tokens_unspent()
        if name == "decompose" and not self.setup.strict:
            # What is asked in a step is a part of the question, and so is an answer to it.
            worth = round(candidates * self._likely)
            tokens = worth if tokens is None else min(tokens, worth)
            candidates *= _PARTS
        # The samples are what there is to answer with when time is up.
        setup = replace(
            self.setup, candidates=candidates, tokens=tokens, spent=0, timed=False, trial=True
        )
        inner = Inner(self._recipes[name].make(setup), (len(self._inners),))
        self._ways[inner.path] = name
        self._inners.append(inner)
        return inner

    def _candidates_left(self) -> int:
        return max(0, self.setup.candidates - sum(map(self._taken_by, self._inners)))

    def _taken_by(self, inner: Inner) -> int:
        """The candidates that a search has taken; those of steps by what they took."""
        if self.setup.strict or self._ways[inner.path] != "decompose":
            return inner.candidates
        return round(inner.cost.completion_tokens / self._likely)

    @property
    def _likely(self) -> float:
        """What a sample takes, in tokens."""
        mean = self._sampled / self._ended if self._ended else float(self.setup.likely or 1)
        return max(1.0, mean)

    def _learn(self, outcome: Outcome) -> None:
        """Note what the last decision has come to."""
        if len(self._lessons) < len(self._taken):
            action, situation, before, spent = self._taken[-1]
            gain = 0.0
            if outcome.answer not in (None, before):
                gain = max(0.0, outcome.confidence - self._belief_in(before))
            self._lessons.append(Lesson(situation, action, gain, self._spent - spent))

    def _belief_in(self, answer: str | None) -> float:
        """How likely an answer is right that isn't the best one any more."""
        doubt = 1.0
        for _, outcome in self._found():
            if answer is not None and outcome.answer is not None:
                weights = {vote.answer: vote.count for vote in outcome.votes}
                most = max(1, weights.get(outcome.answer, 0))
                part = 1.0 if answer == outcome.answer else weights.get(answer, 0) / most
                doubt *= 1.0 - outcome.confidence * min(1.0, part)
        return 1.0 - doubt

    def _decided(self, what: str, why: str, figures: Mapping[Action, float]) -> None:
        self._news.append(
            News("decided", {"path": [], "what": what, "why": why, "figures": dict(figures)})
        )


_SAID: Mapping[Situation, str] = {
    "agree": "agree",
    "lean": "lean to one answer",
    "split": "are split",
    "lost": "are lost: no two agree, or they score badly",
    "silent": "can't be voted on",
}


def _together(found: Sequence[tuple[Inner, Outcome]]) -> Outcome:
    """One outcome of those of several searches: those that agree are so many reasons to believe.

    Of equal reasons, the later search has the word.
    """
    if len(found) == 1:
        inner, outcome = found[0]
        return replace(outcome, ranked=tuple(map(inner.rooted, outcome.ranked)))
    ends = [(place, *pair) for place, pair in enumerate(found)]

    def answer(end: tuple[int, Inner, Outcome]) -> str:
        return end[2].answer or ""

    best: tuple[float, int, Inner, Outcome] | None = None
    for said, alike in groupby(sorted(ends, key=lambda end: (answer(end), end[0])), key=answer):
        same = list(alike)
        sure = 1.0 - prod(1.0 - outcome.confidence for _, _, outcome in same)
        place, inner, outcome = same[-1]
        rank = (sure if said else -1.0, place, inner, outcome)
        if best is None or rank[:2] > best[:2]:
            best = rank
    sure, _, inner, outcome = best or (0.0, 0, *found[-1])
    ranked: list[Candidate] = [inner.rooted(one) for one in outcome.ranked]
    notes = dict.fromkeys(note for _, one in found for note in one.notes)
    return replace(outcome, ranked=tuple(ranked), confidence=max(0.0, sure), notes=tuple(notes))
