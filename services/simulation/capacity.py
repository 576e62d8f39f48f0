"""How many requests a second a site can take, estimated from what a few took of it.

It is an estimate: it takes engines for full all the time. What a load comes to is what the
simulation says.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from services.simulation import clock
from services.simulation.model import EngineModel, Model
from services.simulation.run import Course, Load, Service, Site, Ways

_REQUESTS = 200
_ROOMY = 8
"""Generators among which the few are spread, so that they hardly wait for one another."""
_GRADED_AT_ONCE = 8
_KEPT_BUSY = 0.5
"""How busy orchestrators should be: beyond, what they do waits."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one request takes: seconds of a full generator, of a reward model and of a core of an
    orchestrator.
    """

    generator: float
    reward: float
    orchestrator: float

    def capacity(self, workers: int, rewards: int) -> float:
        """The requests a second for which so many engines are enough."""
        graded = rewards / self.reward if self.reward and rewards else float("inf")
        return min(workers / self.generator, graded)

    def orchestrators(self, rate: float) -> int:
        """The orchestrators that such a rate should have."""
        return max(1, ceil(rate * self.orchestrator / _KEPT_BUSY))


def need(model: Model, load: Load, ways: Ways | None = None) -> Need:
    """What a request of this load takes, by what a few of them took."""
    seconds = 60.0
    site = Site(workers=_ROOMY, rewards=_ROOMY, orchestrators=_ROOMY)
    few = load.at(rate=_REQUESTS / seconds, seconds=seconds)
    course = clock.run(Service(model, site, few, ways).run())
    requests = max(1, len(course.asked))
    spent = sum(one.busy_seconds for one in course.orchestrators) / requests
    return Need(
        _writing(model.generator, course) / requests,
        0.0 if model.reward is None else _reading(model.reward, course) / requests,
        spent,
    )


def _writing(engine: EngineModel, course: Course) -> float:
    """Seconds of a full engine for all that was written."""
    totals = [course.workers.counted[name] for name in course.workers.generators]
    tokens = sum(one["completion_tokens"] for one in totals)
    calls = sum(one["calls"] for one in totals)
    prompts = sum(one["prompt_tokens"] for one in totals)
    unread = prompts - sum(one["cached_tokens"] for one in totals)
    context = (prompts + tokens / 2) / max(1, calls)
    at_once = max(1.0, min(engine.max_num_seqs, engine.kv_tokens / max(1.0, context)))
    one = (
        engine.step_seconds / at_once + engine.sequence_seconds + context * engine.kv_token_seconds
    )
    return tokens * one + calls * engine.call_seconds + unread * engine.prompt_token_seconds


def _reading(engine: EngineModel, course: Course) -> float:
    """Seconds of a reward model that reads several at once for all that was graded."""
    totals = [course.workers.counted[name] for name in course.workers.rewards]
    calls = sum(one["calls"] for one in totals)
    unread = sum(one["prompt_tokens"] - one["cached_tokens"] for one in totals)
    one = engine.step_seconds / _GRADED_AT_ONCE + engine.sequence_seconds + engine.call_seconds
    return calls * one + unread * engine.prompt_token_seconds
