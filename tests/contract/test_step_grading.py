"""Step scores out of a prefix cache, where an engine does what real ones seldom do."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests.integration import checkpoints
from workers.messages import Grade, Graded
from workers.options import RewardOptions

with warnings.catch_warnings():
    # What vLLM imports warns of its own age.
    warnings.simplefilter("ignore")
    from vllm.exceptions import GracefulHTTPError
    from vllm.pooling_params import PoolingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    from workers.scoring import Scorer, Scoring

STEPS = ("one", "two", "three")
QUESTION = (("user", "?"),)
TAG = checkpoints.tokenizer().convert_tokens_to_ids(checkpoints.STEP_TAG)
READ = len(
    checkpoints.conversation(
        (*QUESTION, ("assistant", "".join(step + checkpoints.STEP_TAG for step in STEPS)))
    )
)


@dataclass
class Engine:
    """Scores the token at place i with i / 1000, but for those that it has cached.

    `cached` are so many tokens of each reading that may read the cache, in turn; `again` so many
    rows are given out twice. `broken` is raised at the reading of that number, `cancels` cancels
    the call after it.
    """

    cached: list[int]
    again: tuple[int, ...] = ()
    broken: int | None = None
    cancels: Scoring | None = None
    read: int = 0
    readings: int = 0

    model_config = SimpleNamespace(max_model_len=checkpoints.CONTEXT)

    def get_tokenizer(self) -> Any:
        return checkpoints.tokenizer()

    async def encode(
        self, prompt: Any, params: PoolingParams, _: str, *, priority: int
    ) -> AsyncIterator[Any]:
        token_ids: Sequence[int] = prompt["prompt_token_ids"]
        self.readings += 1
        if self.readings == self.broken:
            raise GracefulHTTPError("too busy", HTTPStatus.SERVICE_UNAVAILABLE)
        start = 0 if params.skip_reading_prefix_cache else self.cached.pop(0)
        places = list(range(start, len(token_ids)))
        if self.readings in self.again:
            places = places[:2] + places
        self.read += len(token_ids)
        if self.cancels is not None:
            self.cancels.cancelled = True
        rows = torch.tensor([[0.0, place / 1000] for place in places])
        yield SimpleNamespace(
            outputs=SimpleNamespace(data=rows),
            num_cached_tokens=start,
            prompt_token_ids=token_ids,
        )


def scorer_of(engine: Engine) -> Scorer:
    options = RewardOptions(model="", step_tag=checkpoints.STEP_TAG)
    return Scorer(cast("AsyncLLM", engine), options, "w")


def grade(max_tokens: int = 4096) -> Scoring:
    return Scoring(Grade("g", QUESTION, STEPS, max_tokens))


def right(made: Graded) -> bool:
    """Whether each score is that of the place of its tag."""
    tagged = "".join(step + checkpoints.STEP_TAG for step in STEPS)
    token_ids = checkpoints.conversation((*QUESTION, ("assistant", tagged)))
    places = [place for place, token_id in enumerate(token_ids) if token_id == TAG]
    return made.step_scores == pytest.approx([place / 1000 for place in places])


async def test_what_is_cached_and_unknown_is_read_as_a_whole() -> None:
    """Scores that another process's call left behind are computed again, at their price."""
    engine = Engine(cached=[READ - 1, READ - 1])
    scorer = scorer_of(engine)
    first = await scorer.run(grade())
    assert (first.finish, first.reward_tokens) == ("done", 2 * READ)
    assert (engine.read, engine.readings) == (2 * READ, 2)
    second = await scorer.run(grade())
    assert (second.finish, second.reward_tokens, second.cached_tokens) == ("done", READ, READ - 1)
    assert right(first)
    assert right(second)


async def test_a_second_reading_that_cannot_be_afforded_is_asked_for_anew() -> None:
    """What was spent is said, and the next try reads the whole at once."""
    engine = Engine(cached=[READ - 1])
    scorer = scorer_of(engine)
    refused = await scorer.run(grade(READ + 5))
    assert (refused.finish, refused.reward_tokens, refused.needs) == (
        "unaffordable",
        READ,
        READ + 6,
    )
    made = await scorer.run(grade(refused.needs))
    assert (made.finish, made.reward_tokens, engine.readings) == ("done", READ, 2)
    assert right(made)


async def test_rows_that_came_twice_are_not_taken_for_scores() -> None:
    """A reading with more rows than tokens is done again; where all are so, the call fails."""
    engine = Engine(cached=[0], again=(1,))
    made = await scorer_of(engine).run(grade())
    assert (made.finish, made.reward_tokens) == ("done", engine.read)
    assert right(made)
    odd = Engine(cached=[0, 0], again=(1, 2, 3, 4))
    scorer = scorer_of(odd)
    for _ in range(2):
        failed = await scorer.run(grade(READ + 5))
        if failed.finish == "unaffordable":
            failed = await scorer.run(grade(READ + 5))
        assert failed.finish == "failed"
    assert odd.readings <= 4


@pytest.mark.parametrize("max_tokens", [4096, READ])
async def test_whatever_ends_a_call_what_was_read_is_counted(max_tokens: int) -> None:
    """A second reading that fails or is cancelled loses nothing of the first."""
    broken = Engine(cached=[READ - 1], broken=2)
    made = await scorer_of(broken).run(grade(max_tokens))
    assert made.reward_tokens == broken.read == READ
    call = grade(max_tokens)
    cancelled = Engine(cached=[READ - 1], cancels=call)
    made = await scorer_of(cancelled).run(call)
    assert made.finish in ("cancelled", "unaffordable")
    assert made.reward_tokens == cancelled.read == READ
