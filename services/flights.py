"""Tasks on their way: what each has made so far, what it has cost, which call carries it now.

A task may take several calls: one more instalment of its budget, one more try after its worker was
lost. Whatever happens between, its tokens are kept and it ends in exactly one `Result`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from planner.confidence import token_confidence
from planner.domain import (
    Candidate,
    Cost,
    Expand,
    Finish,
    Grade,
    Path,
    Prices,
    Query,
    Result,
    derive_seed,
)
from planner.ports import Commit
from planner.steps import split_steps
from workers import messages

TRIES = 3
"""How many workers a task may lose before it has failed."""


@dataclass(slots=True)
class Flight:
    """One `Expand` under way."""

    task: Expand
    prompt: messages.Prompt
    limit: int
    """The tokens it may add at most."""
    before: tuple[int, ...] = ()
    """The tokens it continues: the parent's, and what is put after them."""
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprob: float | None = None
    confidences: list[float] = field(default_factory=list)
    """Those of its tokens, where log-probabilities are asked for."""
    cost: Cost = Cost()
    op: str = ""
    """The operation id of its present call."""
    held: Cost = Cost()
    losses: int = 0
    worker: str | None = None
    sent: float = 0.0
    """When its present call was sent, on the loop's clock."""
    looked: float = 0.0
    """When it was last looked whether that call is late; never again, once it was sent twice."""
    shown: bool = False
    """Whether anything that call wrote can have been shown to somebody."""

    @property
    def kind(self) -> tuple[str, bool, str]:
        """What it has in common with others that are likely to take as much as it does."""
        return self.task.share or "", self.task.counts, self.task.until

    @property
    def missing(self) -> int:
        """The tokens it may still add."""
        return self.limit - len(self.token_ids)

    @property
    def prompt_tokens(self) -> int:
        """The length of the prompt of its next call."""
        return len(self.prompt.token_ids) + len(self.before) + len(self.token_ids)

    def take_up(self, begun: Result) -> None:
        """Go on from what was made of the task before, and what that has cost."""
        self.cost, made = begun.cost, begun.candidate
        if made is None or made.token_ids[: len(self.before)] != self.before:
            return
        parent = self.task.parent or Candidate(())
        self.token_ids = list(made.token_ids[len(self.before) :])
        self.text = made.text[len(parent.text) + len(self.task.append) :]
        self.confidences = list(made.token_confidences[len(parent.token_confidences) :])
        if made.logprob is not None:
            self.logprob = made.logprob - (parent.logprob or 0.0)
        self.worker = begun.worker

    def fund(self, op: str, tokens: int, prices: Prices) -> None:
        """Begin the call `op`, with what to hold so that it may make `tokens` tokens."""
        first = 0 if self.cost.candidates or not self.task.counts else 1
        cost = Cost(prompt_tokens=self.prompt_tokens, completion_tokens=tokens, candidates=first)
        self.op, self.held = op, replace(cost, micro_usd=prices.micro_usd(cost))

    def call(
        self,
        call_id: str,
        query: Query,
        delimiter: str,
        *,
        stream: bool,
        top_logprobs: int,
        cache_salt: str = "",
        priority: int = 0,
    ) -> messages.Generate:
        """Its next call, for what was funded."""
        task, sampling = self.task, query.sampling
        made = len(self.before) + len(self.token_ids)
        return messages.Generate(
            id=call_id,
            prompt_ids=(*self.prompt.token_ids, *self.before, *self.token_ids),
            max_tokens=self.held.completion_tokens,
            temperature=sampling.temperature if task.temperature is None else task.temperature,
            top_p=sampling.top_p,
            seed=derive_seed(query.seed, task.path, made),
            stop=(*sampling.stop, *task.stop),
            delimiters=(delimiter,) if task.until == "step" else (),
            top_logprobs=top_logprobs,
            floor=task.floor,
            confidences=self._last_confidences(),
            stream=stream,
            priority=priority,
            schema=task.schema,
            branch=_branch(call_id, self.op, task.path),
            writer=task.writer,
            cache_salt=cache_salt,
        )

    def begin_again(self) -> None:
        """Another worker takes over: what it has made is kept, unless it can't be gone on with."""
        if self.task.schema is not None:
            self.token_ids, self.text, self.logprob, self.confidences = [], "", None, []

    def _last_confidences(self) -> tuple[float, ...]:
        """Those of the tokens that share a window with the next one."""
        if self.task.floor is None:
            return ()
        before = self.task.parent.token_confidences if self.task.parent else ()
        return (*before, *self.confidences)[-self.task.floor.window :]

    def take(self, made: messages.Generated, prices: Prices) -> Cost:
        """Add what a call made; returns what the call cost.

        A call whose worker was lost may have cost all that was held for it, and is charged that:
        what nobody can know must not go unmetered.
        """
        self.token_ids.extend(made.token_ids)
        self.losses += made.lost
        counted = made.lost or bool(self.cost.candidates) or not self._makes_a_candidate(made)
        cost = _cost_of(made, self.held, prices, candidates=0 if counted else 1)
        self.cost += cost
        self.text += made.text
        self.logprob = _sum(self.logprob, made.logprob)
        self.confidences.extend(map(token_confidence, made.top_logprobs))
        self.worker = made.worker or self.worker
        return cost

    def finish(self, made: messages.Generated) -> Finish | None:
        """How it ended with this call, its last one taken; None where it was cut and may go on.

        A step that takes the last of a candidate's length ends that: nothing could continue it.
        """
        match made.finish:
            case "length" if self.missing > 0:
                return None
            case "step" if self.missing == 0 and self.task.max_tokens is None:
                return Finish.LENGTH
            case "failed":
                return Finish.CANCELLED
            case finish:
                return Finish(finish)

    def _makes_a_candidate(self, made: messages.Generated) -> bool:
        """Whether a call made a candidate of its own; one more step of a partial one isn't."""
        if not self.task.counts or not (self.token_ids or made.completion_tokens):
            return False
        return self.task.until == "end" or self.finish(made) in (Finish.STOP, Finish.LENGTH)

    def result(
        self,
        status: Literal["done", "failed", "cancelled"],
        finish: Finish,
        error: str | None = None,
    ) -> Result:
        """How the task ended, with what it made."""
        parent = self.task.parent or Candidate(())
        candidate = Candidate(
            path=self.task.path,
            text=parent.text + self.task.append + self.text,
            token_ids=(*self.before, *self.token_ids),
            finish=finish,
            logprob=_sum(parent.logprob, self.logprob),
            token_confidences=(*parent.token_confidences, *self.confidences),
        )
        made = candidate if self.token_ids or status == "done" else None
        return Result(self.task.id, status, made, self.cost, error, self.worker)


@dataclass(slots=True)
class Twin:
    """A call that does the same as the one that carries its flight.

    While it is `racing`, whichever of the two ends well first has done the task, and the other one
    is cancelled: that is a twin then, too, of which only the cost is awaited. A task is one
    candidate, whatever its calls: that one is charged with the call for which it was held.
    """

    flight: Flight
    op: str
    held: Cost
    racing: bool = True
    candidates: int = 0

    @property
    def task(self) -> Expand:
        """What it does."""
        return self.flight.task

    def cost(self, made: messages.Generated, prices: Prices) -> Cost:
        """What the call cost, whose result nobody needs."""
        return _cost_of(made, self.held, prices, candidates=self.candidates)

    def win(self) -> Twin:
        """Let it carry the flight from here; what carried it until now is its twin."""
        flight = self.flight
        beaten = Twin(flight, flight.op, flight.held, racing=False)
        flight.op, flight.held = self.op, self.held
        return beaten

    def take_over(self, made: messages.Generated, prices: Prices) -> Commit:
        """The call that carried the flight has failed: go on as if this had carried it.

        What has failed keeps the candidate that was held with it: there is none with this.
        """
        flight = self.flight
        flight.losses += made.lost
        cost = _cost_of(made, flight.held, prices, candidates=flight.held.candidates)
        flight.cost += cost
        commit = Commit(flight.op, cost)
        flight.op, flight.held = self.op, self.held
        return commit


def _cost_of(made: messages.Generated, held: Cost, prices: Prices, *, candidates: int) -> Cost:
    """What a call cost: all that it held where its worker was lost, as nobody can know better."""
    if made.lost:
        return replace(held, candidates=candidates)
    cost = Cost(
        prompt_tokens=made.prompt_tokens,
        cached_tokens=made.cached_tokens,
        completion_tokens=made.completion_tokens,
        candidates=candidates,
    )
    return replace(cost, micro_usd=prices.micro_usd(cost))


@dataclass(slots=True)
class Grading:
    """One `Grade` under way."""

    task: Grade
    needs: int
    """The tokens that the reward model has to read for it, as far as is known."""
    cost: Cost = Cost()
    op: str = ""
    held: Cost = Cost()
    losses: int = 0

    def fund(self, op: str, prices: Prices) -> None:
        """Begin the call `op`, with what to hold for it."""
        cost = Cost(reward_tokens=self.needs)
        self.op, self.held = op, replace(cost, micro_usd=prices.micro_usd(cost))

    def call(
        self,
        call_id: str,
        query: Query,
        delimiter: str,
        *,
        cache_salt: str = "",
        priority: int = 0,
    ) -> messages.Grade:
        """Its next call, for what was funded."""
        asked = self.task.messages or query.messages
        return messages.Grade(
            id=call_id,
            messages=tuple((message.role, message.content) for message in asked),
            steps=split_steps(self.task.candidate.text, delimiter),
            delimiter=delimiter,
            max_tokens=self.needs,
            priority=priority,
            branch=_branch(call_id, self.op, self.task.candidate.path),
            cache_salt=cache_salt,
        )

    def take(self, made: messages.Graded, prices: Prices) -> Cost:
        """Note how a call ended; returns what it cost (see `Flight.take` on lost workers)."""
        if made.lost:
            self.losses += 1
            cost = self.held
        else:
            cost = Cost(reward_tokens=made.reward_tokens)
            cost = replace(cost, micro_usd=prices.micro_usd(cost))
        self.cost += cost
        return cost

    def result(
        self,
        status: Literal["done", "failed", "cancelled"],
        candidate: Candidate | None = None,
        error: str | None = None,
        worker: str | None = None,
    ) -> Result:
        """How the task ended."""
        return Result(self.task.id, status, candidate, self.cost, error, worker)


def _branch(call_id: str, op: str, path: Path) -> messages.Branch:
    """Where a call stands in its request's tree.

    What stands before the operation in the id of a call is the same for all its request.
    """
    return (call_id.removesuffix(op), *path)


def _sum(one: float | None, other: float | None) -> float | None:
    """The sum of what is known of both."""
    if one is None or other is None:
        return other if one is None else one
    return one + other
