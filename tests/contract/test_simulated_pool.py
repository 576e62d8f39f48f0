"""The simulated pool keeps to the contract of pools, but for what characters its tokens say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.simulation import clock
from services.simulation.model import EngineModel, Model, OrchestratorModel, Question, Sample
from services.simulation.orchestrator import Orchestrator
from services.simulation.pool import SimulatedPool, Workers
from services.simulation.writing import Writer, asking
from tests.contract.pool_contract import PoolContract, ends, fresh, graded
from tests.contract.promises import promises
from workers.messages import Generate, Generated, Grade

ENGINE = EngineModel(
    step_seconds=0.0002, sequence_seconds=0.00001, prompt_token_seconds=1e-6, block_size=16
)
QUESTION = Question(
    "hard",
    40,
    "12",
    tuple(Sample((9, 8 + n, 200 + n), str(n), (0.9, 0.5, 0.25)) for n in range(6)),
)
MODEL = Model("two engines", ENGINE, ENGINE, OrchestratorModel(), (QUESTION,), context=1024)

NOT_SAID = (
    # Steps end as they were recorded, at the delimiter of the profile alone, and the text between
    # has no characters of its own to stop at.
    "test_a_delimiter_ends_a_step_and_stays",
    "test_a_stop_string_is_cut_off",
    "test_what_is_cut_off_is_not_continued",
    # How sure the model was isn't recorded.
    "test_a_call_under_its_floor_is_given_up",
    "test_a_floor_is_as_high_as_it_says",
    "test_only_a_full_window_falls_under_a_floor",
)


class Contract(PoolContract):
    def said(self, token_ids: Sequence[int]) -> str:
        raise NotImplementedError


def made(model: Model = MODEL) -> SimulatedPool:
    """A pool of two generators and a reward model."""
    workers = Workers(model, Writer(model.questions, "\n"), generators=2, rewards=1)
    return SimulatedPool(workers, Orchestrator())


@pytest.mark.parametrize(("promise", "arguments"), promises(PoolContract, but=NOT_SAID))
async def test_it_promises_what_pools_do(
    promise: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    """What the pool of real engines promises, this one promises too."""
    await promise(Contract(), pool=made(), **arguments)


async def test_a_step_is_one_that_was_recorded() -> None:
    """Up to a delimiter, a call writes a step of a recorded candidate, and a grade knows it."""
    pool = made()
    said = (("user", asking(0, 7)),)
    prompt = (await pool.prepare(said)).token_ids
    assert len(prompt) == QUESTION.prompt_tokens
    steps = []
    for _ in range(3):
        call = Generate(fresh(), prompt, 400, seed=len(prompt), delimiters=("\n",))
        steps.append((await ends(pool.generate((call,))))[call.id])
        prompt += steps[-1].token_ids
    assert [step.finish for step in steps] == ["step", "step", "stop"]
    assert steps[0].completion_tokens == 9
    text = "".join(step.text for step in steps)
    assert text.count("\n") == 2
    assert "#### " in text
    grade = Grade(fresh(), said, tuple(text.split("\n")), 1000)
    result = (await graded(pool.grade((grade,))))[grade.id]
    assert result.step_scores == (0.9, 0.5, 0.25)
    # Step tags are read, too.
    assert result.reward_tokens == len(prompt) + 3


async def test_what_was_cut_goes_on_where_it_was() -> None:
    """In instalments a candidate comes to the same end as at once, whatever the seed of each."""
    pool = made()
    prompt = (await pool.prepare((("user", asking(0, 1)),))).token_ids
    whole = Generate(fresh(), prompt, 400, seed=5)
    at_once = (await ends(pool.generate((whole,))))[whole.id]
    text, finish, seed = "", "length", 5
    while finish == "length":
        call = Generate(fresh(), prompt, 50, seed=seed)
        piece = (await ends(pool.generate((call,))))[call.id]
        text, finish, seed = text + piece.text, piece.finish, seed + 1
        prompt += piece.token_ids
    assert (text, finish) == (at_once.text, "stop")
    assert prompt[-len(at_once.token_ids) :] == at_once.token_ids


def test_calls_take_the_way_the_engine_and_the_orchestrator() -> None:
    """The time of a call is that there and back, that of its engine, and that of its driver."""
    engine = EngineModel(
        step_seconds=0.01, sequence_seconds=0.001, prompt_token_seconds=0.0, batch_seconds=0.4
    )
    question = Question("easy", 10, "1", (Sample((5,), "1"),))
    driver = OrchestratorModel(call_seconds=0.1, batch_seconds=0.2)
    model = Model("slow ways", engine, None, driver, (question,))

    async def main() -> list[float]:
        workers = Workers(model, Writer(model.questions, "\n"), generators=2, rewards=0)
        pool = SimulatedPool(workers, Orchestrator())
        prompt = (await pool.prepare((("user", asking(0, 0)),))).token_ids
        began = asyncio.get_running_loop().time()
        batch = tuple(Generate(fresh(), prompt, 100, seed=n) for n in range(2))
        heard = []
        async for event in pool.generate(batch):
            assert isinstance(event, Generated)
            heard.append(asyncio.get_running_loop().time() - began)
        return heard

    # Each is alone on its engine; the orchestrator sends and takes one after the other.
    alone = 0.4 + 5 * 0.011
    assert clock.run(main()) == [pytest.approx(alone + 0.3), pytest.approx(alone + 0.5)]
