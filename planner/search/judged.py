"""A search whose answer a judge picks: any other search, and then a tournament of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.domain import Candidate, Expand, News, Outcome, Path, Result, Share, Stopped, Task
from planner.prompts import asked, conversation, judge_messages, parse_judgement
from planner.search.base import Search, Setup
from planner.search.correcting import INSTRUCTION_TOKENS, length, tail
from planner.tally import answer_given

SIDE_BY_SIDE = 4
"""The candidates that one call compares."""
_VERDICT_TOKENS = 64
_MOST = 64


class Judged(Search):
    """Once `inner` is done, its answers, one candidate of each, meet in rounds of up to four.

    Where most candidates give no answer to tell them apart by, those meet as well. A judge who
    fails, or names none, lets the one win that the majority ranks first.
    """

    def __init__(self, setup: Setup, inner: Search) -> None:
        super().__init__(setup)
        self._inner = inner
        self._silent: dict[Path, Candidate] = {}
        """The candidates that have finished and give no answer."""
        self._round = 0
        self._matches: dict[str, Sequence[Candidate]] = {}
        self._waiting: list[Expand] = []
        self._standing: list[Candidate] | None = None
        """Who is still in, in the order of the ranking; None until the inner search is done."""
        self._judged: Outcome | None = None
        """What the inner search came to then. What it is told later changes nothing any more."""
        self._winners: dict[int, Candidate] = {}
        self._failures = 0
        self._unmet = 0
        """Answers that were too many to meet."""
        self._cut = False

    @property
    def needs_logprobs(self) -> bool:
        return self._inner.needs_logprobs

    def ask(self, room: int) -> Sequence[Task]:
        if self._standing is None and not self._inner.done:
            return self._inner.ask(room)
        if self._standing is None:
            self._judged = self._inner.best()
            self._standing = self._contestants(self._judged)
            self._pair()
        started, self._waiting = self._waiting[:room], self._waiting[room:]
        return started

    def tell(self, task: Task, result: Result) -> None:
        match = self._matches.pop(task.id, None)
        if match is None or not isinstance(task, Expand):
            self._hear(task, result)
            return
        said = result.candidate.text if result.candidate and result.status == "done" else ""
        pick = parse_judgement(said, len(match))
        self._failures += pick is None
        self._winners[task.path[-1]] = match[pick or 0]
        if not self._matches:
            self._standing = [self._winners[place] for place in sorted(self._winners)]
            self._pair()

    def _hear(self, task: Task, result: Result) -> None:
        """Pass on what is the inner search's, and note who finished."""
        self._inner.tell(task, result)
        made = result.candidate
        if isinstance(task, Expand) and task.counts and made and made.finished:
            code = self.setup.query.code is not None
            if answer_given(made, code=code) is None:
                self._silent[made.path] = made

    def _contestants(self, outcome: Outcome) -> list[Candidate]:
        """One of each answer, best first, and of those that give none, one of each text."""
        unlike = {one.text: one for one in outcome.ranked}
        if outcome.silent > sum(vote.count for vote in outcome.votes):
            for path in sorted(self._silent):
                unlike.setdefault(self._silent[path].text, self._silent[path])
        self._unmet = max(0, len(unlike) - _MOST)
        return list(unlike.values())[:_MOST]

    def _pair(self) -> None:
        """Set up the matches of the next round; none where one is left."""
        self._winners = {}
        standing = self._standing or []
        if len(standing) < 2:
            return
        self._round += 1
        question = conversation(self.setup.query.messages)
        for place, start in enumerate(range(0, len(standing), SIDE_BY_SIDE)):
            match = standing[start : start + SIDE_BY_SIDE]
            if len(match) == 1:
                self._winners[place] = match[0]
                continue
            task = Expand(
                (self.setup.candidates, self._round, place),
                messages=asked(judge_messages(question, self._shown(match))),
                max_tokens=_VERDICT_TOKENS,
                temperature=0.0,
                counts=False,
            )
            self._matches[task.id] = match
            self._waiting.append(task)

    def _shown(self, match: Sequence[Candidate]) -> list[str]:
        """The texts of a match, each without its oldest words where the context is too small."""
        context, together = self.setup.context, sum(map(length, match))
        if context is None or together <= (room := context - _VERDICT_TOKENS - INSTRUCTION_TOKENS):
            return [one.text for one in match]
        self._cut = True
        return [tail(one.text, max(0, room) / max(1, together)) for one in match]

    def surplus(self) -> Sequence[Task]:
        return self._inner.surplus()

    @property
    def done(self) -> bool:
        if self._standing is not None:
            return len(self._standing) < 2
        return self._inner.done and len(self._contestants(self._inner.best())) < 2

    @property
    def stopped(self) -> Stopped | None:
        if not self.done:
            return None
        return self._inner.stopped if self._judged is None else self._judged.stopped

    def best(self) -> Outcome:
        outcome = replace(self._judged or self._inner.best(), stopped=self.stopped)
        standing = self._standing or []
        if not self.done and len(self._contestants(outcome)) > 1:
            note = "The judge came to no verdict before the end, so the majority stands."
            return replace(outcome, notes=(*outcome.notes, note))
        if self._round == 0 or len(standing) != 1:
            return outcome
        winner = standing[0]
        ranked = (winner, *(one for one in outcome.ranked if one.path != winner.path))
        votes = dict(zip((one.path for one in outcome.ranked), outcome.votes, strict=False))
        chosen = votes.get(winner.path)
        notes = outcome.notes
        if self._failures:
            notes = (*notes, f"The judge named nobody {self._failures} times; the first won there.")
        if self._unmet:
            notes = (
                *notes,
                f"The judge saw the first {_MOST} answers, and not {self._unmet} more.",
            )
        if self._cut:
            notes = (*notes, "Candidates were cut at their start to fit the judge's context.")
        return replace(
            outcome, ranked=ranked, answer=chosen.answer if chosen else None, notes=notes
        )

    def widen(self, candidates: int) -> bool:
        return self._standing is None and self._inner.widen(candidates)

    def hurry(self) -> None:
        self._inner.hurry()

    def shares(self) -> Mapping[str, Share]:
        return self._inner.shares()

    def news(self) -> Sequence[News]:
        return self._inner.news()

    def progress(self) -> tuple[int, int]:
        return self._inner.progress()
