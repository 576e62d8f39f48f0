"""Budget forcing through the driver, on a real ledger: what a thought is continued from."""

from __future__ import annotations

from secrets import token_hex

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Message, Query, Sampling
from planner.effort import Options
from services.budget import RedisLedger
from services.driver import Manner
from services.reasoning import Reasoner
from services.run import Reply
from services.trace import TraceStore
from workers.fake import FakePool, Script
from workers.messages import Generate

QUERY = Query((Message("user", "How many?"),), Sampling(max_tokens=400), seed=5)


class Thinker:
    """Thinks for so many tokens, ends its thinking, and answers."""

    def __init__(self, tokens: int) -> None:
        self.asked: list[tuple[Generate, str]] = []
        self._tokens = tokens

    def __call__(self, call: Generate) -> Script:
        made = bytes(call.prompt_ids).rpartition(b"How many?\n")[2].decode()
        self.asked.append((call, made))
        return Script("#### 7" if "</think>" in made else "." * self._tokens + "</think> and so on")


async def ask(redis: Redis, strategy: str, thinker: Thinker, stop: str = "") -> tuple[Reply, int]:
    """The reply of two candidates at most, and the tokens that the worker counted."""
    pool = FakePool(thinker)
    reasoner = Reasoner(pool, RedisLedger(redis), TraceStore(redis), Manner())
    options = Options(strategy=strategy, stop="none", budget=Budget(candidates=2))
    sampling = Sampling(max_tokens=400, stop=(stop,) if stop else ())
    query = Query(QUERY.messages, sampling, QUERY.seed)
    reply = await (await reasoner.start(query, options, trace_id=token_hex(8))).reply()
    await reasoner.drain(5)
    return reply, (await pool.counters())["fake"]["completion_tokens"]


async def test_a_thought_goes_on_as_if_it_had_never_ended(redis_client: Redis) -> None:
    """No extension sees the end of thinking; the answer sees it once, where it belongs."""
    thinker = Thinker(20)
    reply, counted = await ask(redis_client, "budget_forcing_thinking", thinker)
    thought = "." * 20
    made = [before for _, before in thinker.asked]
    chain = ["\nWait".join([thought] * times) + "\nWait" for times in (1, 2, 3)]
    answer = "\nWait".join([thought] * 4) + "\n</think>\n\n"
    assert sorted(made) == sorted(["", *chain, answer] * 2)
    assert counted == reply.spent.completion_tokens == 2 * (4 * len(thought + "</think>") + 6)
    assert reply.spent.candidates == 2
    assert [(vote.answer, vote.count) for vote in reply.outcome.votes] == [("7", 2)]
    assert reply.outcome.best is not None
    assert reply.outcome.best.text == answer + "#### 7"


@pytest.mark.parametrize("tokens", [90, 295, 1000])
async def test_an_answer_has_its_room(redis_client: Redis, tokens: int) -> None:
    """However long the model would think, a quarter of its tokens is left to answer with."""
    thinker = Thinker(tokens)
    reply, counted = await ask(redis_client, "budget_forcing_thinking", thinker)
    for call, made in thinker.asked:
        if made.endswith("</think>\n\n"):
            assert len(made) <= 300 + len("\n</think>\n\n")
            assert call.max_tokens == 400 - len(made) >= 85
        else:
            assert len(made) + call.max_tokens == 300
    assert reply.outcome.answer == "7"
    assert counted == reply.spent.completion_tokens


async def test_what_a_stop_string_ended_is_continued_without_it(redis_client: Redis) -> None:
    """The plain form goes on from what is shown, not from the stop string behind that."""
    thinker = Thinker(20)
    await ask(redis_client, "budget_forcing", thinker, stop="</think>")
    made = [before for _, before in thinker.asked]
    assert made[:2] == ["", "." * 20 + "\nWait\n"]
    assert not any("</think>" in before for before in made)
