"""What each request of a load asks for, drawn from the plan's seed.

The request at one place is the same in every run of the same plan, whatever came before it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeVar

from planner.domain import derive_seed
from services.evaluation.questions import Question, synthetic
from services.loading.plan import LOCAL, Key, Plan


@dataclass(frozen=True, slots=True)
class Job:
    """One request. `hangup` is after how many seconds its client goes away, if it does."""

    place: int
    question: Question
    split: str
    effort: str
    seed: int
    streamed: bool
    hangup: float | None
    tenant: str = LOCAL
    secret: str | None = None


class Jobs:
    """Draws the requests of a plan."""

    def __init__(self, plan: Plan) -> None:
        """Raises InvalidOption where the plan names a split that there is none of."""
        self._plan = plan
        self._questions: Mapping[str, Sequence[Question]] = {
            one.name: synthetic(one.name, plan.questions, plan.seed) for one in plan.splits
        }

    def job(self, place: int) -> Job:
        """The request at this place, counted from 0."""
        plan = self._plan
        seed = derive_seed(plan.seed, (place,))
        drawn = random.Random(seed)
        split = _one_of(plan.splits, drawn).name
        effort = _one_of(plan.efforts, drawn).name
        key: Key | None = _one_of(plan.keys, drawn) if plan.keys else None
        streamed = drawn.random() < plan.stream
        leaves = drawn.random() < plan.hangups
        return Job(
            place=place,
            question=self._questions[split][place % plan.questions],
            split=split,
            effort=effort,
            seed=seed,
            streamed=streamed,
            hangup=drawn.uniform(0, plan.hangup_seconds) if leaves else None,
            tenant=LOCAL if key is None else key.name,
            secret=None if key is None else key.secret,
        )

    def body(self, job: Job, model: str) -> dict[str, Any]:
        """The request as it is sent."""
        limits = {
            "deadline_seconds": self._plan.deadline,
            "completion_tokens": self._plan.tokens,
        }
        budget = {name: limit for name, limit in limits.items() if limit is not None}
        return {
            "model": model,
            "messages": [{"role": "user", "content": job.question.text}],
            "reasoning_effort": job.effort,
            "seed": job.seed,
            "stream": job.streamed,
            **({"longthink": {"budget": budget}} if budget else {}),
        }


class _Weighed(Protocol):
    @property
    def weight(self) -> float: ...


_Thing = TypeVar("_Thing", bound=_Weighed)


def _one_of(things: Sequence[_Thing], drawn: random.Random) -> _Thing:
    bounds = list(accumulate(one.weight for one in things))
    return drawn.choices(things, cum_weights=bounds)[0]
