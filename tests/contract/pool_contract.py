"""What every pool keeps to, whether real engines are behind it or not.

`PoolContract` is run over the fake, with a planner and without, and over engines with two
generators and a reward model. A subclass gives the fixture `pool`, and says what its tokens say.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from typing import Any, Protocol

import pytest

from planner.confidence import lowest_group, token_confidence
from planner.domain import Floor
from planner.errors import InvalidOption, PromptTooLong
from workers.messages import Generate, Generated, GenerationEvent, Grade, Graded, Tokens
from workers.ports import Pool

QUESTION = (("system", "Be brief."), ("user", "What is one and one?"))
_ids = count()


class CountingPool(Pool, Protocol):
    """A pool that says what its engines have counted, by worker."""

    async def counters(self) -> dict[str, dict[str, int]]: ...


async def totals(pool: CountingPool) -> dict[str, int]:
    """The counters of all workers together."""
    of_workers = (await pool.counters()).values()
    return {name: sum(one[name] for one in of_workers) for name in next(iter(of_workers))}


async def grown(pool: CountingPool, before: dict[str, int]) -> dict[str, int]:
    """By how much the counters have grown, once nothing runs any more."""
    await idle(pool)
    return {name: value - before[name] for name, value in (await totals(pool)).items()}


async def idle(pool: CountingPool, seconds: float = 10.0) -> None:
    """Return once no engine has anything running or waiting; fail if that takes longer."""
    async with asyncio.timeout(seconds):
        # Engines tell nobody when they become idle: they can only be asked.
        while (now := await totals(pool))["running"] + now["waiting"]:
            await asyncio.sleep(0.02)


async def ends(events: AsyncIterator[GenerationEvent]) -> dict[str, Generated]:
    """The end of each call. Fails if a call ends twice."""
    ended: dict[str, Generated] = {}
    async for event in events:
        if isinstance(event, Generated):
            assert event.id not in ended
            ended[event.id] = event
    return ended


async def graded(results: AsyncIterator[Graded]) -> dict[str, Graded]:
    """The result of each grade. Fails if one comes twice."""
    ended: dict[str, Graded] = {}
    async for result in results:
        assert result.id not in ended
        ended[result.id] = result
    return ended


def fresh() -> str:
    """An id that no other call has."""
    return f"call-{next(_ids)}"


Asking = Callable[..., Generate]


async def asking(pool: Pool) -> Asking:
    """Makes calls that all answer the same question, each with a seed of its own.

    A test's seeds are the same whichever tests ran before it: what a model writes, and whether it
    ends in a few tokens, is no matter of their order.
    """
    prompt = await pool.prepare(QUESTION)
    seeds = count()

    def make(max_tokens: int = 24, **more: Any) -> Generate:
        seed = more.pop("seed") if "seed" in more else next(seeds)
        return Generate(fresh(), prompt.token_ids, max_tokens, seed=seed, **more)

    return make


class PoolContract(ABC):
    """The port's promises, one test each."""

    @abstractmethod
    def said(self, token_ids: Sequence[int]) -> str:
        """What these tokens say."""

    async def test_a_prompt_and_its_answer_share_the_context(self, pool: CountingPool) -> None:
        """What a longer prompt takes, its answer has to do without."""
        short = await pool.prepare((("user", "a"),))
        long = await pool.prepare((("user", "a question of some length"),))
        assert len(long.token_ids) > len(short.token_ids)
        assert len(long.token_ids) + long.context_left == len(short.token_ids) + short.context_left

    @pytest.mark.parametrize("length", [5_000, 2_000_000])
    async def test_a_prompt_that_fills_the_context_is_refused(
        self, pool: CountingPool, length: int
    ) -> None:
        """A prompt that leaves no room for an answer is refused, however long it is."""
        with pytest.raises(PromptTooLong, match=r"too (long|many)"):
            await pool.prepare((("user", "x" * length),))

    async def test_messages_that_the_template_refuses_are_refused(self, pool: CountingPool) -> None:
        """A role that the chat template doesn't know is the caller's mistake, and named."""
        with pytest.raises(InvalidOption) as refused:
            await pool.prepare((("stranger", "hello"),))
        assert refused.value.param == "messages"

    async def test_each_call_ends_once(self, pool: CountingPool) -> None:
        """A batch of any mix ends call by call, each once."""
        ask = await asking(pool)
        batch = tuple(ask(4 + i, stream=i % 2 == 0, priority=i) for i in range(9))
        ended = await ends(pool.generate(batch))
        assert ended.keys() == {call.id for call in batch}
        assert {one.finish for one in ended.values()} <= {"stop", "length"}

    async def test_an_empty_batch_ends_at_once(self, pool: CountingPool) -> None:
        """Nothing comes of nothing."""
        assert await ends(pool.generate(())) == {}
        assert await graded(pool.grade(())) == {}

    async def test_no_call_is_longer_than_asked(self, pool: CountingPool) -> None:
        """`max_tokens` is kept to the token, and what reaches it says so."""
        ask = await asking(pool)
        calls = [ask(length) for length in (1, 2, 3)]
        ended = await ends(pool.generate(tuple(calls)))
        for call in calls:
            one = ended[call.id]
            assert len(one.token_ids) == one.completion_tokens == call.max_tokens
            assert one.finish == "length"

    async def test_plans_are_written_by_the_planner_where_there_is_one(
        self, pool: CountingPool
    ) -> None:
        """In a batch of both each call goes to whom it names, is counted there, and ends once."""
        ask = await asking(pool)
        prompt = await pool.prepare(QUESTION, "planner")
        before = await totals(pool)
        answers = [ask(4 + place) for place in range(5)]
        plans = [
            Generate(fresh(), prompt.token_ids, 5 + place, seed=place, writer="planner")
            for place in range(5)
        ]
        ended = await ends(pool.generate((*plans[:3], *answers, *plans[3:])))
        assert ended.keys() == {call.id for call in (*answers, *plans)}
        reasoners, planners = (
            {ended[call.id].worker for call in calls} for calls in (answers, plans)
        )
        assert reasoners.isdisjoint(planners) == pool.plans
        after = await grown(pool, before)
        for name in ("prompt_tokens", "completion_tokens"):
            assert after[name] == sum(getattr(one, name) for one in ended.values())

    async def test_plans_end_when_they_are_cancelled(self, pool: CountingPool) -> None:
        """Whoever writes them, they say what they came to until then."""
        prompt = await pool.prepare(QUESTION, "planner")
        call = Generate(fresh(), prompt.token_ids, 400, seed=1, stream=True, writer="planner")
        events = pool.generate((call,))
        await pool.cancel([call.id])
        assert (await ends(events))[call.id].finish == "cancelled"

    async def test_counts_are_the_engines_own(self, pool: CountingPool) -> None:
        """What the calls say they took is what the engines' counters grew by."""
        ask = await asking(pool)
        before = await totals(pool)
        batch = tuple(ask(3 + 5 * i, stream=i % 3 == 0, top_logprobs=i % 2) for i in range(12))
        ended = (await ends(pool.generate(batch))).values()
        after = await grown(pool, before)
        assert after["completion_tokens"] == sum(one.completion_tokens for one in ended)
        assert after["prompt_tokens"] == sum(one.prompt_tokens for one in ended)
        assert after["cached_tokens"] == sum(one.cached_tokens for one in ended)

    async def test_a_seed_repeats(self, pool: CountingPool) -> None:
        """The same seed on the same prompt makes the same tokens, beside others too."""
        ask = await asking(pool)
        alone = await ends(pool.generate((call := ask(seed=7),)))
        again = ask(seed=7)
        beside = await ends(pool.generate((ask(), again, ask())))
        assert beside[again.id].token_ids == alone[call.id].token_ids

    async def test_seeds_differ(self, pool: CountingPool) -> None:
        """Different seeds make different candidates."""
        ask = await asking(pool)
        ended = await ends(pool.generate(tuple(ask(20) for _ in range(6))))
        assert len({one.token_ids for one in ended.values()}) > 1

    async def test_streamed_pieces_are_the_whole(self, pool: CountingPool) -> None:
        """The pieces of a streamed call, put together, are what it made; others don't stream."""
        ask = await asking(pool)
        streamed, plain = ask(30, stream=True), ask(30)
        text = ""
        token_ids: list[int] = []
        async for event in pool.generate((streamed, plain)):
            if isinstance(event, Tokens):
                assert event.id == streamed.id
                text += event.text
                token_ids += event.token_ids
            elif event.id == streamed.id:
                assert (event.text, event.token_ids) == (text, tuple(token_ids))

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_delimiter_ends_a_step_and_stays(
        self, pool: CountingPool, stream: bool
    ) -> None:
        """A delimiter ends the call, stays in its text, and none of its tokens is lost."""
        ask = await asking(pool)
        whole, delimiter = await written(pool, ask)
        call = ask(80, seed=whole.seed, delimiters=(delimiter,), stream=stream)
        step = (await ends(pool.generate((call,))))[call.id]
        assert step.finish == "step"
        assert delimiter in step.text
        assert whole.made.text.startswith(step.text)
        assert whole.made.token_ids[: len(step.token_ids)] == step.token_ids

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("delimiters", [(), ("never written",)])
    async def test_a_stop_string_is_cut_off(
        self, pool: CountingPool, stream: bool, delimiters: tuple[str, ...]
    ) -> None:
        """A stop string of the user ends the call and doesn't show, streamed or not."""
        ask = await asking(pool)
        whole, stop = await written(pool, ask)
        call = ask(80, seed=whole.seed, stop=(stop,), delimiters=delimiters, stream=stream)
        said, ended = "", None
        async for event in pool.generate((call,)):
            if isinstance(event, Tokens):
                said += event.text
            else:
                ended = event
        assert ended is not None
        assert ended.finish == "stop"
        assert ended.text == whole.made.text[: whole.made.text.index(stop)]
        assert said == (ended.text if stream else "")

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("delimiters", [(), ("never written",)])
    async def test_what_is_cut_off_is_not_continued(
        self, pool: CountingPool, stream: bool, delimiters: tuple[str, ...]
    ) -> None:
        """The tokens of a stop string are made, streamed and counted, and then cut off too."""
        ask = await asking(pool)
        whole, stop = await written(pool, ask)
        before = await totals(pool)
        call = ask(80, seed=whole.seed, stop=(stop,), delimiters=delimiters, stream=stream)
        made: list[int] = []
        ended = None
        async for event in pool.generate((call,)):
            if isinstance(event, Tokens):
                made += event.token_ids
            else:
                ended = event
        assert ended is not None
        assert self.said(ended.token_ids) == ended.text
        assert len(ended.token_ids) < ended.completion_tokens
        assert (await grown(pool, before))["completion_tokens"] == ended.completion_tokens
        assert tuple(made) == whole.made.token_ids[: ended.completion_tokens if stream else 0]

    async def test_a_continuation_continues_the_text(self, pool: CountingPool) -> None:
        """What goes on from the tokens of a step goes on with its text."""
        ask = await asking(pool)
        first = ask(12)
        made = (await ends(pool.generate((first,))))[first.id]
        second = Generate(fresh(), first.prompt_ids + made.token_ids, 12, seed=3)
        more = (await ends(pool.generate((second,))))[second.id]
        assert more.prompt_tokens == len(first.prompt_ids) + len(made.token_ids)

    async def test_log_probabilities_come_when_asked_for(self, pool: CountingPool) -> None:
        """As many a token as asked for, highest first; none when not asked."""
        ask = await asking(pool)
        call, plain = ask(6, top_logprobs=3), ask(6)
        ended = await ends(pool.generate((call, plain)))
        one = ended[call.id]
        assert len(one.top_logprobs) == one.completion_tokens
        for row in one.top_logprobs:
            assert len(row) == 3
            assert list(row) == sorted(row, reverse=True)
        assert one.logprob is not None
        assert one.logprob < 0
        assert ended[plain.id].top_logprobs == ()

    async def test_a_call_under_its_floor_is_given_up(self, pool: CountingPool) -> None:
        """A call that falls under its floor ends there, with what the engine counted for it."""
        ask = await asking(pool)
        before = await totals(pool)
        out_of_reach = Floor(1e9, 1)
        batch = tuple(
            ask(400, top_logprobs=3, floor=out_of_reach, stream=i % 2 == 0) for i in range(6)
        )
        ended = (await ends(pool.generate(batch))).values()
        assert [one.finish for one in ended] == ["doubtful"] * 6
        after = await grown(pool, before)
        assert after["completion_tokens"] == sum(one.completion_tokens for one in ended) < 6 * 400
        assert after["prompt_tokens"] == sum(one.prompt_tokens for one in ended)
        for one in ended:
            assert len(one.token_ids) == len(one.top_logprobs) == one.completion_tokens

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_floor_is_as_high_as_it_says(self, pool: CountingPool, stream: bool) -> None:
        """A call whose least sure window is above its floor isn't touched; under it, it ends."""
        ask = await asking(pool)
        plain = ask(40, top_logprobs=5)
        made = (await ends(pool.generate((plain,))))[plain.id]
        lowest = lowest_group([token_confidence(row) for row in made.top_logprobs], 4)

        def floored(confidence: float) -> Generate:
            floor = Floor(confidence, 4)
            return ask(40, seed=plain.seed, top_logprobs=5, floor=floor, stream=stream)

        above, under = floored(lowest - 0.05), floored(lowest + 0.05)
        ended = await ends(pool.generate((above, under)))
        assert ended[above.id].finish == made.finish
        assert (ended[above.id].text, ended[above.id].token_ids) == (made.text, made.token_ids)
        assert ended[under.id].finish == "doubtful"
        assert made.token_ids[: len(ended[under.id].token_ids)] == ended[under.id].token_ids

    async def test_only_a_full_window_falls_under_a_floor(self, pool: CountingPool) -> None:
        """A call shorter than the window runs whole, unless the tokens before it fill that up."""
        ask = await asking(pool)
        short = ask(3, top_logprobs=3, floor=Floor(1e9, 4))
        later = ask(3, top_logprobs=3, floor=Floor(1e9, 4), confidences=(0.5, 0.5, 0.5))
        ended = await ends(pool.generate((short, later)))
        assert ended[short.id].finish == "length"
        assert ended[later.id].finish == "doubtful"

    async def test_cancelled_calls_end_with_what_they_made(self, pool: CountingPool) -> None:
        """Cancelled calls stop in the engine and say to the token what it counted for them."""
        ask = await asking(pool)
        before = await totals(pool)
        batch = tuple(ask(400, stream=i % 2 == 0) for i in range(6))
        ended: list[Generated] = []
        async for event in pool.generate(batch):
            if isinstance(event, Tokens):
                await pool.cancel([call.id for call in batch])
            else:
                ended.append(event)
        assert {one.id for one in ended} == {call.id for call in batch}
        assert "cancelled" in {one.finish for one in ended}
        after = await grown(pool, before)
        assert after["completion_tokens"] == sum(one.completion_tokens for one in ended)
        assert after["prompt_tokens"] == sum(one.prompt_tokens for one in ended)

    async def test_a_call_can_be_cancelled_before_it_is_read(self, pool: CountingPool) -> None:
        """A call is known from the moment it was given, read or not."""
        ask = await asking(pool)
        call = ask(400)
        events = pool.generate((call,))
        await pool.cancel([call.id])
        ended = (await ends(events))[call.id]
        assert ended.finish == "cancelled"
        assert ended.completion_tokens < 400

    async def test_cancelling_what_is_not_there_does_nothing(self, pool: CountingPool) -> None:
        """Ids that are unknown, or whose calls have ended, are ignored."""
        ask = await asking(pool)
        call = ask(3)
        await ends(pool.generate((call,)))
        await pool.cancel([call.id, "nobody"])
        await pool.cancel([])
        again = ask(3)
        assert (await ends(pool.generate((again,))))[again.id].finish == "length"

    async def test_closing_the_stream_stops_the_calls(self, pool: CountingPool) -> None:
        """Whoever closes the stream leaves nothing running behind."""
        ask = await asking(pool)
        events = pool.generate(tuple(ask(400, stream=True) for _ in range(6)))
        await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        await idle(pool, seconds=1.0)

    async def test_a_grade_has_a_score_a_step(self, pool: CountingPool) -> None:
        """One score in [0, 1] for each step, and what was read for it is what was counted."""
        assert pool.grades
        before = await totals(pool)
        batch = tuple(
            Grade(fresh(), QUESTION, tuple(f"step {i}" for i in range(steps)), 4096)
            for steps in (1, 2, 5)
        )
        results = await graded(pool.grade(batch))
        for call in batch:
            one = results[call.id]
            assert one.finish == "done"
            assert len(one.step_scores) == len(call.steps)
            assert all(0 <= score <= 1 for score in one.step_scores)
        after = await grown(pool, before)
        assert after["prompt_tokens"] == sum(one.reward_tokens for one in results.values()) > 0
        assert after["cached_tokens"] == sum(one.cached_tokens for one in results.values())

    async def test_a_grade_says_what_it_would_take(self, pool: CountingPool) -> None:
        """One that costs more than allowed reads nothing, and says what it needs; so much does."""
        before = await totals(pool)
        dear = Grade(fresh(), QUESTION, ("a step",), 3)
        refused = (await graded(pool.grade((dear,))))[dear.id]
        assert refused.finish == "unaffordable"
        assert refused.reward_tokens == 0
        assert (await grown(pool, before))["prompt_tokens"] == 0
        paid = Grade(fresh(), QUESTION, ("a step",), refused.needs)
        done = (await graded(pool.grade((paid,))))[paid.id]
        assert (done.finish, done.reward_tokens) == ("done", refused.needs)

    async def test_cancelled_grades_end_too(self, pool: CountingPool) -> None:
        """A grade that is cancelled ends all the same, and says what was read for it."""
        before = await totals(pool)
        batch = tuple(Grade(fresh(), QUESTION, ("a step",) * 9, 4096) for _ in range(8))
        results = pool.grade(batch)
        await pool.cancel([call.id for call in batch])
        ended = await graded(results)
        assert ended.keys() == {call.id for call in batch}
        assert {one.finish for one in ended.values()} <= {"cancelled", "done"}
        read = sum(one.reward_tokens for one in ended.values())
        assert (await grown(pool, before))["prompt_tokens"] == read


class Written:
    """A continuation, and the seed that makes it again."""

    def __init__(self, seed: int, made: Generated) -> None:
        self.seed = seed
        self.made = made


async def written(pool: CountingPool, ask: Asking) -> tuple[Written, str]:
    """A continuation, and two characters within that are first seen well behind its beginning."""
    seeds: Sequence[int] = range(20)
    calls = [ask(80, seed=seed) for seed in seeds]
    ended = await ends(pool.generate(tuple(calls)))
    for seed, call in zip(seeds, calls, strict=True):
        text = ended[call.id].text
        for start in range(6, len(text) - 2):
            pair = text[start : start + 2]
            if pair.isascii() and pair.isprintable() and text.index(pair) == start:
                return Written(seed, ended[call.id]), pair
    raise AssertionError("no continuation of twenty has two plain characters to stop at")
