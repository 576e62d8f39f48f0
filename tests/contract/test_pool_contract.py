"""The fake pool keeps to the contract, and does the faults that it is there for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from planner.domain import Floor
from tests.contract.pool_contract import (
    QUESTION,
    CountingPool,
    PoolContract,
    ends,
    fresh,
    graded,
)
from workers.fake import FakePool, Script, Verdict, write
from workers.messages import Generate, Generated, Grade, Tokens


class TestFakePool(PoolContract):
    """The contract, over the fake, alone and with a planner beside it."""

    @pytest.fixture(params=[None, write], ids=["alone", "with-planner"])
    def pool(self, request: pytest.FixtureRequest) -> CountingPool:
        return FakePool(plan=request.param)

    def said(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode()


def call(**more: object) -> Generate:
    return Generate(fresh(), (1, 2, 3), 100, **more)  # type: ignore[arg-type]


async def test_calls_finish_in_the_order_of_their_time() -> None:
    """Each call is heard of as it finishes, not as it was asked."""
    pace = {"slow": 0.3, "quick": 0.02, "middling": 0.1}
    pool = FakePool(lambda asked: Script("done", pace[asked.id]))
    batch = tuple(Generate(name, (1,), 100) for name in pace)
    order = [event.id async for event in pool.generate(batch)]
    assert order == ["quick", "middling", "slow"]


async def test_a_lost_worker_is_told_of_once_for_each_call() -> None:
    """A call whose worker dies ends as lost, with no counts: nobody knows them."""
    pool = FakePool(lambda asked: Script("half a", fault="lost"))
    asked = call()
    ended = (await ends(pool.generate((asked,))))[asked.id]
    assert (ended.finish, ended.lost, ended.completion_tokens) == ("failed", True, 0)


async def test_a_failure_keeps_what_was_counted() -> None:
    """A call that fails by itself says what it took until then."""
    pool = FakePool(lambda asked: Script("half a", fault="failed"))
    asked = call()
    ended = (await ends(pool.generate((asked,))))[asked.id]
    assert (ended.finish, ended.lost, ended.completion_tokens) == ("failed", False, 6)


async def test_a_hanging_call_ends_when_it_is_cancelled() -> None:
    """A call that hangs hangs until it is cancelled."""
    pool = FakePool(lambda asked: Script("", fault="hang"))
    asked = call()
    waiting = asyncio.create_task(ends(pool.generate((asked,))))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    await pool.cancel([asked.id])
    assert (await waiting)[asked.id].finish == "cancelled"


async def test_a_cancelled_call_has_what_its_time_allowed() -> None:
    """Tokens come evenly over the script's time, and cancelling keeps those that came."""
    pool = FakePool(lambda asked: Script("0123456789", 10.0))
    asked = call(stream=True)
    async for event in pool.generate((asked,)):
        if isinstance(event, Tokens) and event.text == "1":
            await pool.cancel([asked.id])
        if isinstance(event, Generated):
            assert (event.finish, event.text) == ("cancelled", "01")


async def test_a_doubtful_call_ends_with_the_token_that_made_it_so() -> None:
    """Confidences come as scripted, and the first full window under the floor is the end."""
    sure = (2.0, 2.0, 2.0, 0.0, 0.5, 2.0)
    pool = FakePool(lambda asked: Script("0123456789", confidences=sure))
    asked = call(top_logprobs=2, floor=Floor(1.0, 3), stream=True)
    ended = (await ends(pool.generate((asked,))))[asked.id]
    assert (ended.finish, ended.text) == ("doubtful", "01234")
    assert ended.top_logprobs[2:] == ((-2.0, -2.0), (-0.0, -0.0), (-0.5, -0.5))


async def test_a_planner_reads_prompts_of_its_own() -> None:
    """Its chat template is another one, and leaves another room for what it writes."""
    pool = FakePool(plan=lambda asked: Script(f"a plan of {len(asked.prompt_ids)}"))
    own, planners = [await pool.prepare(QUESTION, writer) for writer in ("reasoner", "planner")]
    assert own.token_ids != planners.token_ids
    assert planners.context_left < own.context_left
    asked = Generate(fresh(), planners.token_ids, 100, writer="planner")
    ended = (await ends(pool.generate((asked,))))[asked.id]
    assert ended.text == f"a plan of {len(planners.token_ids)}"
    assert (await pool.counters())[ended.worker]["prompt_tokens"] == len(planners.token_ids)


@pytest.mark.parametrize(("fault", "lost"), [("failed", False), ("lost", True)])
async def test_a_grade_can_fail(fault: str, lost: bool) -> None:
    """A grade fails as its verdict says, and costs nothing."""
    pool = FakePool(judge=lambda asked: Verdict(fault=fault))  # type: ignore[arg-type]
    asked = Grade(fresh(), QUESTION, ("a",), 1000)
    ended = (await graded(pool.grade((asked,))))[asked.id]
    assert (ended.finish, ended.lost, ended.reward_tokens) == ("failed", lost, 0)


async def test_without_a_judge_nothing_is_graded() -> None:
    """A pool without a reward model says so, and fails what is asked all the same."""
    pool = FakePool(judge=None)
    assert not pool.grades
    asked = Grade(fresh(), QUESTION, ("a",), 1000)
    assert (await graded(pool.grade((asked,))))[asked.id].finish == "failed"
