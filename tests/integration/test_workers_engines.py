"""The pool of real workers: the contract, and what only engines, replicas and Serve can show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest
import torch
from ray.serve.context import _RequestContext, _serve_request_context
from transformers import PreTrainedTokenizerFast, Qwen2ForSequenceClassification

from planner.confidence import TOP
from planner.domain import Floor
from tests.contract.pool_contract import (
    QUESTION,
    PoolContract,
    asking,
    ends,
    fresh,
    graded,
    grown,
    idle,
    totals,
)
from tests.integration import checkpoints
from tests.integration.conftest import QUEUE, Engines
from tests.processes import engines as engines_of
from tests.processes import replicas as replicas_of
from workers.messages import Generate, Generated, Grade, Tokens
from workers.pool import ServePool

pytestmark = pytest.mark.asyncio(loop_scope="session")

BLOCK = 32
"""Tokens in a block of the KV cache on the CPU."""


class TestServePool(PoolContract):
    """The contract, over two generators and a process reward model."""

    def said(self, token_ids: Sequence[int]) -> str:
        return _said(token_ids)


async def test_short_calls_are_heard_of_first(pool: ServePool) -> None:
    """Each call is heard of as it finishes, not when all of its batch have."""
    ask = await asking(pool)
    batch = (ask(300), ask(2), ask(300), ask(2))
    order = [event.id async for event in pool.generate(batch)]
    assert set(order[:2]) == {batch[1].id, batch[3].id}


async def test_replicas_share_a_batch(pool: ServePool) -> None:
    """A batch is split between the replicas, half and half."""
    ask = await asking(pool)
    ended = (await ends(pool.generate(tuple(ask(20) for _ in range(16))))).values()
    workers = [one.worker for one in ended]
    assert sorted(workers.count(worker) for worker in set(workers)) == [8, 8]


async def test_single_calls_spread_too(pool: ServePool) -> None:
    """Calls that come one by one go where the least is running."""
    ask = await asking(pool)
    streams = [ends(pool.generate((ask(200),))) for _ in range(8)]
    workers = [one.worker for ended in await asyncio.gather(*streams) for one in ended.values()]
    assert sorted(workers.count(worker) for worker in set(workers)) == [4, 4]


async def test_a_shared_prompt_is_read_once_a_replica(pool: ServePool) -> None:
    """What the candidates of one question share comes from the cache, and they say so."""
    question = (("user", "how much is that? " * 20),)
    prompt = await pool.prepare(question)
    batch = tuple(Generate(fresh(), prompt.token_ids, 2, seed=i) for i in range(4))
    await ends(pool.generate(batch))
    before = await totals(pool)
    again = tuple(Generate(fresh(), prompt.token_ids, 2, seed=i) for i in range(4))
    ended = (await ends(pool.generate(again))).values()
    assert all(one.cached_tokens >= 128 for one in ended)
    after = await grown(pool, before)
    assert after["cached_tokens"] == sum(one.cached_tokens for one in ended)


async def test_children_go_where_their_parent_was_written(pool: ServePool) -> None:
    """Calls that continue a node run on its replica, which reads only what no block of it has."""
    roots, ended = await _grown_tree(pool, 8)
    assert len({one.worker for one in ended.values()}) == 2
    children = [
        Generate(
            fresh(),
            (*root.prompt_ids, *ended[root.id].token_ids),
            2,
            seed=2,
            branch=(*root.branch, place),
        )
        for root in roots
        for place in range(2)
    ]
    written = await ends(pool.generate(tuple(children)))
    for place, child in enumerate(children):
        one = written[child.id]
        assert one.worker == ended[roots[place // 2].id].worker
        # The last token is always read, and of the others what makes no whole block.
        assert one.cached_tokens == (len(child.prompt_ids) - 1) // BLOCK * BLOCK


async def test_an_overloaded_replica_gives_branches_up(pool: ServePool) -> None:
    """Of many children of one node, those run elsewhere that would leave another with nothing."""
    (root,), ended = await _grown_tree(pool, 1)
    token_ids = (*root.prompt_ids, *ended[root.id].token_ids)
    branches = [(*root.branch, place) for place in range(40)]
    batch = [Generate(fresh(), token_ids, 2, seed=2, branch=branch) for branch in branches]
    written = await ends(pool.generate(tuple(batch)))
    home = ended[root.id].worker
    assert [written[call.id].worker == home for call in batch] == [True] * 28 + [False] * 12


async def _grown_tree(pool: ServePool, count: int) -> tuple[list[Generate], dict[str, Generated]]:
    """The first steps of a tree that nobody grew before, a block and more long, and their ends."""
    name = fresh()
    prompt = await pool.prepare((("user", f"{name}, what is it? " * 8),))
    roots = [
        Generate(fresh(), prompt.token_ids, 2 * BLOCK, seed=place, branch=(name, place))
        for place in range(count)
    ]
    # Whoever takes calls is known from then on.
    ask = await asking(pool)
    await ends(pool.generate(tuple(ask(2) for _ in range(4))))
    return roots, await ends(pool.generate(tuple(roots)))


async def test_a_delimiter_within_a_token_keeps_the_token_whole(pool: ServePool) -> None:
    """Where a token says more than the delimiter, the text has it too, as a continuation would."""
    ask = await asking(pool)
    words = checkpoints.tokenizer()
    calls = [ask(120, seed=seed) for seed in range(30)]
    wholes = await ends(pool.generate(tuple(calls)))
    seed, delimiter, length = next(_first_long_tokens(words, calls, wholes))
    for stream in (False, True):
        call = ask(120, seed=seed, delimiters=(delimiter,), stream=stream)
        said, step = "", None
        async for event in pool.generate((call,)):
            if isinstance(event, Tokens):
                said += event.text
            else:
                step = event
        assert step is not None
        assert step.finish == "step"
        assert step.completion_tokens == length
        assert not step.text.endswith(delimiter)
        assert wholes[calls[seed].id].text.startswith(step.text)
        assert said == (step.text if stream else "")


async def test_what_stood_before_a_stop_string_in_its_token_stays(pool: ServePool) -> None:
    """Where a token says something, and then a stop string, only the stop string is cut off."""
    ask = await asking(pool)
    calls = [ask(120, seed=seed) for seed in range(30)]
    wholes = await ends(pool.generate(tuple(calls)))
    seed, stop, length = next(_last_letters(calls, wholes))
    whole = wholes[calls[seed].id]
    for delimiters in ((), ("never written",)):
        call = ask(120, seed=seed, stop=(stop,), delimiters=delimiters)
        cut = (await ends(pool.generate((call,))))[call.id]
        assert (cut.finish, cut.completion_tokens) == ("stop", length)
        assert cut.text == whole.text[: whole.text.index(stop)]
        assert cut.token_ids[: length - 1] == whole.token_ids[: length - 1]
        assert len(cut.token_ids) >= length
        assert _said(cut.token_ids) == cut.text


async def test_every_end_token_of_the_model_ends_a_reply(pool: ServePool) -> None:
    """Those that only its generation config names do too; none of them is taken for a step."""
    prompt = await pool.prepare(QUESTION)
    words = checkpoints.tokenizer()
    named = tuple(words.encode(checkpoints.EOS + checkpoints.OTHER_END))
    assert prompt.end_ids == named
    step = int(words.encode("\n\n")[0])
    ask = await asking(pool)
    for more in ({}, {"delimiters": ("\n\n",)}):
        batch = tuple(ask(200, seed=seed, **more) for seed in range(60))
        ended = (await ends(pool.generate(batch))).values()
        stopped = [one.token_ids[-1] for one in ended if one.finish == "stop"]
        assert set(stopped) == set(named)
        stepped = [one.token_ids[-1] for one in ended if one.finish == "step"]
        assert set(stepped) == ({step} if more else set())
        assert all(_said(one.token_ids).startswith(one.text) for one in ended)


def _said(token_ids: Sequence[int]) -> str:
    """What tokens say to a reader."""
    return str(checkpoints.tokenizer().decode(list(token_ids), skip_special_tokens=True))


def _last_letters(
    calls: list[Generate], wholes: dict[str, Generated]
) -> Iterator[tuple[int, str, int]]:
    """Where the last letter of a token of several comes for the first time."""
    for seed, call in enumerate(calls):
        before = ""
        for length, token in enumerate(wholes[call.id].token_ids, 1):
            text = _said([token])
            if len(text) > 1 and text.isascii() and text[-1] not in before + text[:-1]:
                yield seed, text[-1], length
            before += text


def _first_long_tokens(
    words: PreTrainedTokenizerFast, calls: list[Generate], wholes: dict[str, Generated]
) -> Iterator[tuple[int, str, int]]:
    """Where a token of several letters brings its first letter for the first time."""
    for seed, call in enumerate(calls):
        before = ""
        for length, token in enumerate(wholes[call.id].token_ids, 1):
            text = str(words.decode([token], skip_special_tokens=True))
            if len(text) > 1 and text.isascii() and text[0] not in before:
                yield seed, text[0], length
            before += text


async def test_cancelling_empties_the_engines_at_once(pool: ServePool) -> None:
    """Cancelled, a batch is out of both engines within a second."""
    ask = await asking(pool)
    batch = tuple(ask(400) for _ in range(64))
    reading = asyncio.create_task(ends(pool.generate(batch)))
    await _running(pool, 32)
    await pool.cancel([call.id for call in batch])
    await idle(pool, seconds=1.0)
    finishes = [one.finish for one in (await reading).values()]
    # A few may have ended by themselves before.
    assert finishes.count("cancelled") > 32


async def test_what_a_floor_saves_is_never_generated(pool: ServePool) -> None:
    """By the engines' own counters, doubtful calls take a fraction of what they take whole."""
    ask = await asking(pool)
    seeds = await _long_ones(pool, ask(300), 16)

    async def spent(floor: Floor | None) -> tuple[int, set[str]]:
        before = await totals(pool)
        batch = tuple(ask(300, seed=seed, top_logprobs=TOP, floor=floor) for seed in seeds)
        finishes = {str(one.finish) for one in (await ends(pool.generate(batch))).values()}
        return (await grown(pool, before))["completion_tokens"], finishes

    whole, finishes = await spent(None)
    assert "doubtful" not in finishes
    given_up, finishes = await spent(Floor(1e9, 16))
    assert "doubtful" in finishes
    assert given_up < whole / 3


async def _long_ones(pool: ServePool, call: Generate, count: int) -> list[int]:
    """The seeds with which this call becomes longest, of six times as many."""
    calls = {fresh(): seed for seed in range(6 * count)}
    batch = tuple(replace(call, id=name, seed=seed) for name, seed in calls.items())
    ended = await ends(pool.generate(batch))
    longest = sorted(ended.values(), key=lambda one: -one.completion_tokens)
    return [calls[one.id] for one in longest[:count]]


async def test_a_reader_that_is_cancelled_leaves_nothing(pool: ServePool) -> None:
    """When the task that reads a batch is cancelled, the engines drop the batch."""
    ask = await asking(pool)
    batch = tuple(ask(400) for _ in range(16))
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(ends(pool.generate(batch)))
        await _running(pool, 8)
        reading.cancel()
    assert reading.cancelled()
    await idle(pool, seconds=1.0)


async def test_calls_for_one_http_request_are_told_apart(pool: ServePool) -> None:
    """Serve gives all calls of an HTTP request one id; none may be taken for another by that."""

    async def ask() -> None:
        context = _RequestContext(request_id="r", _internal_request_id="one")
        _serve_request_context.set(context)  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            await asyncio.gather(
                *(pool.encode(f"Wait {place}") for place in range(12)),
                *(pool.prepare((("user", f"{place}?"),)) for place in range(12)),
            )

    for _ in range(5):
        await asyncio.create_task(ask())


@pytest.mark.parametrize(("priority", "first"), [(-5, True), (10**13, False)])
async def test_a_call_of_lower_priority_goes_first(
    pool: ServePool, priority: int, first: bool
) -> None:
    """It overtakes those that wait in the engine; one of a higher priority waits for them all."""
    ask = await asking(pool)
    others = tuple(ask(40, priority=0) for _ in range(2 * QUEUE - 80))
    ended: list[str] = []

    async def listen(batch: tuple[Generate, ...]) -> None:
        async for event in pool.generate(batch):
            if isinstance(event, Generated):
                assert event.finish in ("length", "stop"), event.error
                ended.append(event.id)

    async with asyncio.TaskGroup() as group:
        group.create_task(listen(others))
        async with asyncio.timeout(30):
            while (await totals(pool))["waiting"] < len(others) // 2:
                await asyncio.sleep(0.01)
        call = ask(2, priority=priority)
        group.create_task(listen((call,)))
    after = len(ended) - 1 - ended.index(call.id)
    # It is in one of two engines, of which the other may be as far behind as it has calls.
    assert (after > len(others) // 3) if first else (after <= len(others) // 2)


async def test_a_full_engine_refuses_at_once(pool: ServePool) -> None:
    """Beyond what an engine takes in, calls fail as lost: another worker might take them."""
    ask = await asking(pool)
    asked = 2 * QUEUE + 40
    ended = (await ends(pool.generate(tuple(ask(1) for _ in range(asked))))).values()
    refused = [one for one in ended if one.finish == "failed"]
    assert len(ended) == asked
    assert all(one.lost and one.completion_tokens == 0 for one in refused)
    assert len(ended) - len(refused) >= 2 * QUEUE - 2


async def test_a_prompt_beyond_the_context_fails_alone(pool: ServePool) -> None:
    """A call that no engine can take fails with the reason; those beside it don't."""
    ask = await asking(pool)
    long = Generate(fresh(), (5,) * (checkpoints.CONTEXT + 1), 4)
    call = ask(4)
    ended = await ends(pool.generate((long, call)))
    assert (ended[long.id].finish, ended[long.id].lost) == ("failed", False)
    assert str(checkpoints.CONTEXT) in (ended[long.id].error or "")
    assert ended[call.id].finish == "length"


async def test_step_scores_are_what_transformers_gives(pool: ServePool, engines: Engines) -> None:
    """The process reward model scores as the same weights do in transformers."""
    steps = ("first this", "then that", "#### 2")
    batch = tuple(Grade(fresh(), QUESTION, steps[: i + 1], 4096) for i in range(3))
    results = await graded(pool.grade(batch))
    for call in batch:
        expected, read = _by_transformers(engines, call)
        assert results[call.id].step_scores == pytest.approx(expected, abs=0.02)
        assert results[call.id].reward_tokens == read


def _by_transformers(engines: Engines, call: Grade) -> tuple[list[float], int]:
    """The scores of a call's steps by transformers alone, and the tokens to read for them."""
    tagged = "".join(step + checkpoints.STEP_TAG for step in call.steps)
    token_ids = checkpoints.conversation((*call.messages, ("assistant", tagged)))
    return checkpoints.process_scores(engines.folder / "process", token_ids), len(token_ids)


async def test_a_step_is_graded_without_reading_the_rest_again(
    pool: ServePool, engines: Engines
) -> None:
    """Of a candidate that goes on, what was graded before comes from the cache, scores and all."""
    question = (("user", f"{fresh()}: how much is that? " * 4),)
    steps = tuple(f"step {place} is of some length" for place in range(6))
    before = await totals(pool)
    cached = []
    for end in range(1, len(steps) + 1):
        call = Grade(fresh(), question, steps[:end], 4096)
        graded_now = (await graded(pool.grade((call,))))[call.id]
        expected, read = _by_transformers(engines, call)
        assert graded_now.step_scores == pytest.approx(expected, abs=0.02)
        assert graded_now.reward_tokens == read
        if end > 1:
            # The tokens after the last tag differ, and of the others whole blocks are kept.
            assert read - graded_now.cached_tokens < 2 * BLOCK + len(steps[0]) + 5
        cached.append(graded_now.cached_tokens)
    assert (await grown(pool, before))["cached_tokens"] == sum(cached) > 0


async def test_scores_that_nobody_heard_are_computed_again(
    pool: ServePool, engines: Engines
) -> None:
    """A reading that is given up leaves its cache behind, but takes no score from those after."""
    question = (("user", f"{fresh()}: and how much is that? " * 4),)
    steps = tuple(f"step {place} is of some length" for place in range(6))
    before = await totals(pool)
    spent = 0
    for _ in range(12):
        calls = tuple(Grade(fresh(), question, steps, 4096) for _ in range(3))
        reading = asyncio.create_task(graded(pool.grade(calls)))
        await asyncio.sleep(0.002)
        await pool.cancel([call.id for call in calls[:2]])
        ended = await reading
        spent += sum(one.reward_tokens for one in ended.values())
        expected, _ = _by_transformers(engines, calls[2])
        assert ended[calls[2].id].step_scores == pytest.approx(expected, abs=0.02)
        question = (("user", f"{fresh()}: and how much is that? " * 4),)
    assert (await grown(pool, before))["prompt_tokens"] == spent


async def test_an_outcome_model_gives_one_score(engines: Engines) -> None:
    """An outcome reward model gives one score for all steps, the one transformers gives."""
    pool = ServePool(engines.handle("generator"), engines.handle("outcome"), generators=2)
    call = Grade(fresh(), QUESTION, ("first this", "#### 2"), 4096)
    result = (await graded(pool.grade((call,))))[call.id]
    folder = engines.folder / "outcome"
    token_ids = checkpoints.conversation((*QUESTION, ("assistant", "first this\n#### 2")))
    model = Qwen2ForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logit = model(torch.tensor([token_ids])).logits[0, 0]
    assert result.step_scores == pytest.approx((float(logit.sigmoid()),), abs=0.02)


async def test_a_tag_in_the_text_is_not_a_step(pool: ServePool) -> None:
    """Whoever writes the step tag into a text doesn't get a score for it."""
    tag = checkpoints.STEP_TAG
    sly = Grade(fresh(), (("user", f"hello {tag}"),), (f"a{tag}b", "c"), 4096)
    plain = Grade(fresh(), (("user", "hello "),), ("ab", "c"), 4096)
    results = await graded(pool.grade((sly, plain)))
    assert results[sly.id].step_scores == pytest.approx(results[plain.id].step_scores, abs=1e-3)


async def test_what_the_reward_model_cannot_read_fails_alone(pool: ServePool) -> None:
    """A candidate beyond the reward model's context fails with the reason, and costs nothing."""
    long = Grade(fresh(), QUESTION, ("x" * 600,), 4096)
    short = Grade(fresh(), QUESTION, ("x",), 4096)
    results = await graded(pool.grade((long, short)))
    assert (results[long.id].finish, results[long.id].reward_tokens) == ("failed", 0)
    assert str(checkpoints.CONTEXT) in (results[long.id].error or "")
    assert results[short.id].finish == "done"


async def test_metrics_are_named_by_replica(pool: ServePool) -> None:
    """Every engine's metrics come under the name that its results carry."""
    ask = await asking(pool)
    call = ask(2)
    worker = (await ends(pool.generate((call,))))[call.id].worker
    metrics = await pool.metrics()
    assert len(metrics) == 3
    assert "vllm:generation_tokens_total" in metrics[worker]


def _kill(replica: psutil.Process) -> None:
    replica.kill()


def _kill_engine(replica: psutil.Process) -> None:
    _engine(replica).kill()


def _stop_engine(replica: psutil.Process) -> None:
    _engine(replica).suspend()


@pytest.mark.timeout(420)
@pytest.mark.parametrize("strike", [_kill, _kill_engine, _stop_engine])
async def test_a_lost_replica_loses_only_its_own(
    pool: ServePool, strike: Callable[[psutil.Process], None]
) -> None:
    """Whether a replica dies, its engine dies or its engine hangs: its calls end as lost, the
    others' end well, nothing of it stays, and another takes its place.
    """
    ask = await asking(pool)
    replicas = await _whole("generator")
    engines = [core for replica in replicas for core in replica.children(recursive=True)]
    batch = tuple(ask(400, stream=True) for _ in range(16))
    ended: dict[str, Generated] = {}
    struck = False
    began = time.monotonic()
    async for event in pool.generate(batch):
        if isinstance(event, Generated):
            assert event.id not in ended
            ended[event.id] = event
        elif not struck:
            struck = True
            strike(replicas[0])
    assert time.monotonic() - began < 60
    lost = [one for one in ended.values() if one.lost]
    assert ended.keys() == {call.id for call in batch}
    assert len(lost) == 8
    assert all(one.finish == "failed" and one.error for one in lost)
    assert all(one.finish in ("stop", "length") for one in ended.values() if not one.lost)

    after = ask(4)
    assert not (await ends(pool.generate((after,))))[after.id].lost
    async with asyncio.timeout(300):
        while replicas[0].is_running() or not await pool.ready():
            await asyncio.sleep(0.2)
    await idle(pool)
    assert len([core for core in engines if core.is_running()]) == len(engines) // 2


def _engine(replica: psutil.Process) -> psutil.Process:
    """The process of a replica's engine."""
    (engine,) = engines_of(replica)
    return engine


async def _running(pool: ServePool, calls: int) -> None:
    """Return once so many calls run at the same time."""
    async with asyncio.timeout(20):
        while (await totals(pool))["running"] < calls:
            await asyncio.sleep(0.01)


async def _whole(deployment: str) -> list[psutil.Process]:
    """The processes of its two replicas, once both have an engine and a former one is gone."""
    found: dict[psutil.Process, list[psutil.Process]] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(100):
            while [len(engines) for engines in found.values()] != [1, 1]:
                await asyncio.sleep(0.2)
                found = {it: engines_of(it) for it in replicas_of(f"{deployment}:")}
    assert [len(engines) for engines in found.values()] == [1, 1], found
    return list(found)
