"""A request whose runner dies, freezes or is left goes on from its trace, in another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeAlias, cast

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from planner.domain import Cost, Stopped, derive_seed
from planner.errors import InvalidOption, LedgerUnavailable, UnknownBudget
from planner.search import STRATEGIES
from services.evaluation.retrace import retrace
from services.idempotency import Key, KeyReused, Keys, Lease
from services.reasoning import UnknownTrace
from services.resume import OtherQuery
from services.run import Run
from services.trace import Event, Kind, Superseded, Trace, TraceStore
from tests.contract.runners import QUERY, Runner, done, journaled, until_told, wide
from workers.fake import Script
from workers.messages import Generate

Hire: TypeAlias = Callable[..., Runner]


@pytest_asyncio.fixture
async def hire(redis_url: str) -> AsyncIterator[Hire]:
    """Makes runners, which all end with the test."""
    async with AsyncExitStack() as runners:

        def hire(script: Callable[[Generate], Script] | None = None) -> Runner:
            runner = Runner(redis_url) if script is None else Runner(redis_url, script)
            runners.push_async_callback(runner.close)
            return runner

        yield hire


async def balanced(runner: Runner, trace_id: str) -> list[Event]:
    """The trace of a request whose ledger has what its journal says, and holds nothing.

    What a dead runner held without having sent it is given back when the budget is closed, which is
    after the reply.
    """
    async with asyncio.timeout(5):
        while (account := await runner.ledger.account(trace_id)).held != Cost():
            await asyncio.sleep(0.01)
    events = await runner.events(trace_id)
    paid = journaled(events, Kind.PAID)
    assert account.spent == sum(paid.values(), Cost())
    assert journaled(events, Kind.SENT).keys() == paid.keys()
    return events


def replays(trace_id: str, events: list[Event]) -> bool:
    """Whether the trace replays to the outcome on record."""
    sent = [
        {"seq": it.seq, "seconds": it.seconds, "kind": it.kind, "data": it.data} for it in events
    ]
    return retrace({"id": trace_id, "events": sent}).same


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
async def test_a_dead_runners_request_goes_on(hire: Hire, strategy: str) -> None:
    """What was told is neither sampled nor told again, and the ledger balances."""
    first, second = hire(), hire()
    options = wide(12, strategy=strategy, selector="weighted")
    run = await first.run(options)
    await until_told(run, 1 if strategy == "single" else 4)
    first.redis.stop()
    told = {it["id"] for it in done(await second.events(run.trace.id))}
    reply = await second.ask(options)
    events = await balanced(second, reply.trace_id)

    assert reply.trace_id == run.trace.id
    assert reply.outcome.answer is not None
    names = [it["id"] for it in done(events)]
    assert len(names) == len(set(names))
    assert told <= set(names)
    kept = {derive_seed(QUERY.seed, tuple(map(int, it.split(":")[1].split(".")))) for it in told}
    assert not kept & second.asked.keys()
    assert replays(reply.trace_id, events)


async def test_what_nobody_can_know_is_charged(hire: Hire) -> None:
    """Calls that were in flight when the runner died count with all that they held."""
    first, second = hire(lambda _: Script("#### 1", fault="hang")), hire()
    run = await first.run(wide(4))
    async with asyncio.timeout(5):
        while not (sent := journaled(await second.events(run.trace.id), Kind.SENT)):
            await asyncio.sleep(0.01)
    first.redis.stop()
    reply = await second.ask(wide(4))
    events = await balanced(second, reply.trace_id)
    assert len(sent) == 4
    lost = sum(cost.completion_tokens for cost in sent.values())
    made = sum(len(it["candidate"]["token_ids"]) for it in done(events))
    assert reply.spent.completion_tokens == lost + made
    assert reply.spent.candidates == 4


async def test_a_runner_that_wakes_up_stops(hire: Hire) -> None:
    """One that was thought dead writes nothing more, sends nothing more and charges nothing; its
    client gets the reply of the one that took over.
    """
    first, second = hire(), hire()
    options = wide(300)
    run = await first.run(options)
    waiting = asyncio.create_task(run.reply())
    await until_told(run, 20)
    first.redis.stop()
    asked = sum(first.asked.values())
    reply = await second.ask(options)
    before = await balanced(second, reply.trace_id)
    first.redis.going().set()
    same = await asyncio.wait_for(waiting, 5)
    await asyncio.sleep(0.3)
    assert await balanced(second, reply.trace_id) == before
    assert sum(first.asked.values()) == asked
    assert (same.outcome, same.spent) == (reply.outcome, reply.spent)


async def test_two_at_once_are_one(hire: Hire) -> None:
    """A second request attaches to the first, and is told the same; both are paid once."""
    runner = hire()
    one, other = await asyncio.gather(runner.ask(wide()), runner.ask(wide()))
    assert (one.trace_id, one.outcome, one.spent) == (other.trace_id, other.outcome, other.spent)
    assert max(runner.asked.values()) == 1
    assert len(runner.asked) == 16
    assert Cost() in (one.paid_before, other.paid_before)
    assert one.spent in (one.paid_before, other.paid_before)


async def test_two_processes_are_one(hire: Hire) -> None:
    """A second request that reaches another process follows the first one's trace to its reply."""
    first, second = hire(), hire()
    run = await first.run(wide(selector="weighted"))
    one, other = await asyncio.gather(run.reply(), second.ask(wide(selector="weighted")))
    assert (one.trace_id, one.outcome, one.spent) == (other.trace_id, other.outcome, other.spent)
    assert not second.asked


async def test_one_that_follows_takes_over(hire: Hire) -> None:
    """If the process that is followed dies, the one that follows goes on by itself."""
    first, second = hire(), hire()
    run = await first.run(wide(64))
    await until_told(run, 8)
    following = asyncio.create_task(second.ask(wide(64)))
    await asyncio.sleep(0.1)
    first.redis.stop()
    reply = await asyncio.wait_for(following, 10)
    assert sum(vote.count for vote in reply.outcome.votes) == 64
    assert len(done(await balanced(second, reply.trace_id))) == 64


async def test_one_that_follows_waits_for_redis(
    hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it fails first: reading the trace, or asking whether anybody still runs it."""
    first, second = hire(), hire()
    run = await first.run(wide(64))
    followed = await second.run(wide(64))
    take, after = second.keys.take, second.traces.after
    failed = list[str]()

    async def no_take(key: Key, trace_id: str) -> Lease | None:
        if failed.count("take") < 2:
            failed.append("take")
            raise LedgerUnavailable("away")
        return await take(key, trace_id)

    async def no_after(trace_id: str, place: str) -> tuple[list[Event], str]:
        if failed.count("take") == 2 and "after" not in failed:
            failed.append("after")
            raise RedisConnectionError("away")
        return await after(trace_id, place)

    monkeypatch.setattr("services.once._AWAY_PAUSE", 0.01)
    monkeypatch.setattr(second.keys, "take", no_take)
    monkeypatch.setattr(second.traces, "after", no_after)
    reply = await asyncio.wait_for(followed.reply(), 10)
    assert failed == ["take", "take", "after"]
    assert reply.outcome == (await run.reply()).outcome


async def test_the_same_key_with_another_body_is_refused(hire: Hire) -> None:
    """A key stands for one request."""
    runner = hire()
    await runner.ask(wide(2))
    with pytest.raises(KeyReused):
        await runner.run(wide(3))
    assert (await runner.ask(wide(3), key="another")).outcome.answer is not None


async def test_a_refused_request_frees_its_key(hire: Hire) -> None:
    """What was refused may be sent in another form."""
    runner = hire()
    with pytest.raises(InvalidOption):
        await runner.run(wide(2, strategy="none"))
    assert (await runner.ask(wide(2))).outcome.answer is not None


async def test_a_key_stays_one_search_when_another_process_is_refused(
    hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited for that one begins instead, and the key stands for what it begins."""
    one, other, third = hire(), hire(), hire()
    refused = asyncio.Event()

    async def refuse(*_: Any, **__: Any) -> Run:
        await refused.wait()
        raise InvalidOption("It comes to nothing.")

    monkeypatch.setattr(one.reasoner, "start", refuse)
    async with asyncio.timeout(10):
        first = asyncio.create_task(one.run(wide(64)))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(other.run(wide(64)))
        await asyncio.sleep(0.1)
        refused.set()
        with pytest.raises(InvalidOption):
            await first
        run = await second
        same = await third.run(wide(64))
        assert same.trace.id == run.trace.id
        assert (await same.reply()).outcome == (await run.reply()).outcome
    assert not third.asked


async def test_a_finished_request_is_told_again(hire: Hire) -> None:
    """Any process tells the same reply, and spends nothing."""
    first, second = hire(), hire()
    options = wide(8, strategy="refine", selector="weighted")
    reply = await first.ask(options)
    await first.traces.flush()
    again = await second.ask(options)
    assert (again.trace_id, again.outcome, again.spent) == (
        reply.trace_id,
        reply.outcome,
        reply.spent,
    )
    assert not second.asked


async def test_a_request_that_was_left_goes_on(hire: Hire) -> None:
    """Left by its only client a run ends at once; repeated, it goes on from there, in mid-word."""
    runner = hire(lambda call: Script("1 2 3 4 5 6 7 8\n#### 7"[len(made(call)) :], seconds=0.1))
    run = await runner.run(wide(8))
    await asyncio.sleep(0.06)
    run.cancel()
    left = await run.reply()
    assert left.outcome.stopped is Stopped.CANCELLED
    reply = await runner.ask(wide(8))
    events = await balanced(runner, reply.trace_id)
    assert reply.trace_id == left.trace_id
    assert [vote.count for vote in reply.outcome.votes] == [8]
    assert left.spent.completion_tokens > 0
    assert reply.spent.completion_tokens == 8 * len("1 2 3 4 5 6 7 8\n#### 7")
    assert reply.spent.candidates == 8
    assert replays(reply.trace_id, events)


async def test_a_client_that_leaves_as_its_run_begins_leaves_it(
    hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has the run yet: it ends all the same, and the next one goes on from there."""
    runner, begun = hire(), list[Run]()
    start = runner.reasoner.start

    async def left(*asked: Any, **more: Any) -> Run:
        begun.append(await start(*asked, **more))
        caller = asyncio.current_task()
        assert caller is not None
        caller.cancel()
        return begun[0]

    with monkeypatch.context() as patched:
        patched.setattr(runner.reasoner, "start", left)
        asking = asyncio.create_task(runner.run(wide(64)))
        await asyncio.wait((asking,), timeout=5)
    assert asking.cancelled()
    await asyncio.wait_for(begun[0].over.wait(), 5)
    assert begun[0].left
    reply = await runner.ask(wide(64))
    assert reply.trace_id == begun[0].trace.id
    assert reply.spent.candidates == 64
    await balanced(runner, reply.trace_id)


async def test_a_run_goes_on_while_anybody_waits(hire: Hire) -> None:
    """That one of two clients leaves changes nothing for the other."""
    runner = hire()
    one, other = await runner.run(wide()), await runner.run(wide())
    one.cancel()
    reply = await other.reply()
    assert reply.outcome.stopped is Stopped.COMPLETE
    assert sum(vote.count for vote in reply.outcome.votes) == 16


def made(call: Generate) -> bytes:
    """What was written before the call."""
    return bytes(call.prompt_ids).rpartition(b"How many?\n")[2]


async def test_an_earlier_requests_candidates_are_kept(hire: Hire) -> None:
    """With a bigger budget only the difference is sampled and spent; the budget is the total."""
    first, second = hire(), hire()
    cheap = await first.ask(wide(4, selector="weighted"), key="cheap")
    more = await second.ask(wide(12, selector="weighted"), key="more", earlier=cheap.trace_id)
    whole = await hire().ask(wide(12, selector="weighted"), key="whole")
    assert more.outcome.ranked == whole.outcome.ranked
    assert more.outcome.answer == whole.outcome.answer
    assert more.reused == 8  # four candidates, and their grades
    assert len(second.asked) == 8
    assert not first.asked.keys() & second.asked.keys()
    assert cheap.spent.completion_tokens + more.spent.completion_tokens == (
        whole.spent.completion_tokens
    )
    assert more.spent.candidates == 8
    limits = (await second.ledger.account(more.trace_id)).limits
    assert limits.candidates == 12 - 4
    assert replays(more.trace_id, await balanced(second, more.trace_id))


async def test_what_a_budget_cut_is_gone_on_with(hire: Hire) -> None:
    """A candidate that the budget ended in mid-word costs only what is missing of it."""
    text = "1 2 3 4 5 6 7 8\n#### 7"
    runner = hire(lambda call: Script(text[len(made(call)) :]))
    cheap = await runner.ask(wide(1, budget={"completion_tokens": 10}), key="cheap")
    assert cheap.outcome.stopped is Stopped.BUDGET or cheap.spent.completion_tokens == 10
    more = await runner.ask(
        wide(1, budget={"completion_tokens": 100}), key="more", earlier=cheap.trace_id
    )
    assert more.outcome.answer == "7"
    assert more.spent.completion_tokens == len(text) - 10


@pytest.mark.parametrize("strategy", ["beam", "mcts", "refine", "budget_forcing", "best_of_n"])
async def test_trees_keep_what_they_ask_for_again(hire: Hire, strategy: str) -> None:
    """The same request once more spends nothing at all, whatever it grows."""
    first, second = hire(), hire()
    options = wide(8, strategy=strategy)
    cheap = await first.ask(options, key="cheap")
    again = await second.ask(options, key="again", earlier=cheap.trace_id)
    assert again.outcome.answer == cheap.outcome.answer
    assert again.reused > 0
    # Grades are told in another order than they came in, which may lead a search elsewhere.
    assert again.spent.completion_tokens < cheap.spent.completion_tokens


async def test_an_earlier_request_is_about_the_same_query(hire: Hire) -> None:
    """Another seed samples other candidates, so there is nothing to keep."""
    runner = hire()
    cheap = await runner.ask(wide(2), key="cheap")
    earlier = await runner.reasoner.earlier(cheap.trace_id)
    assert earlier.query(QUERY, seeded=True) == QUERY
    other = replace(QUERY, seed=6)
    assert earlier.query(other, seeded=False) == QUERY
    with pytest.raises(OtherQuery):
        earlier.query(other, seeded=True)


async def test_an_earlier_request_of_another_version_is_refused(hire: Hire) -> None:
    """Its search would ask for something else now, so nobody can tell what to keep of it."""
    runner = hire()
    cheap = await runner.ask(wide(2), key="cheap")
    earlier = await runner.reasoner.earlier(cheap.trace_id)
    events = tuple(
        replace(it, data={**it.data, "tasks": ["expand:99"]}) if it.kind is Kind.ASKED else it
        for it in earlier.saved.events
    )
    odd = replace(earlier, saved=replace(earlier.saved, events=events))
    with pytest.raises(UnknownTrace):
        await runner.reasoner.start(QUERY, wide(4), trace_id="new", earlier=odd)
    with pytest.raises(UnknownBudget):
        await runner.ledger.account("new")


class Flaky(Redis):
    """A client that loses its connection when it is told to."""

    away = False

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Several commands."""
        if self.away:
            raise RedisConnectionError("away")
        return super().pipeline(*args, **options)


async def test_a_trace_that_others_go_on_from_has_no_gaps(redis_url: str) -> None:
    """What Redis didn't take while it was away is written as soon as it is back, before the rest;
    of a trace that nobody goes on from, it is lost.
    """
    lost: list[int] = []
    client = cast("Flaky", Flaky.from_url(redis_url))
    store = TraceStore(client, lost=lambda count, _: lost.append(count))
    keys = Keys(client)
    lease = await keys.take(Key("k", "d"), "one")
    assert lease is not None
    one, other = Trace("one", store, runner=lease.runner), Trace("other", store)
    for trace in (one, other):
        trace.append(Kind.ASKED, room=1)
    await store.flush()
    client.away = True
    for trace in (one, other):
        trace.append(Kind.ASKED, room=2)
    with pytest.raises(LedgerUnavailable):
        await one.kept()
    client.away = False
    for trace in (one, other):
        trace.append(Kind.ASKED, room=3)
    await one.kept()
    rooms = {
        name: [event.data["room"] for event in await store.read(name) or []]
        for name in ("one", "other")
    }
    assert rooms == {"one": [1, 2, 3], "other": [1, 3]}
    assert lost == [1]

    await lease.release()
    assert await keys.take(Key("k", "d"), "one") is not None
    one.append(Kind.ASKED, room=4)
    with pytest.raises(Superseded):
        await one.kept()
    assert len(await store.read("one") or []) == 3
    await store.aclose()
    await client.aclose()


async def test_what_cannot_be_written_holds_up_nobody(redis_client: Redis) -> None:
    """Whoever waits for it is told, and the writer goes on with the traces of all others."""
    told: list[int] = []
    store = TraceStore(redis_client, lost=lambda count, _: told.append(count))
    odd, sound = Trace("odd", store), Trace("sound", store)
    odd.append(Kind.ASKED, room=object())
    async with asyncio.timeout(5):
        with pytest.raises(LedgerUnavailable):
            await store.kept("odd")
        sound.append(Kind.ASKED, room=1)
        await store.kept("sound")
    assert await store.read("odd") is None
    assert await store.read("sound") is not None
    assert told == [1]
    await store.aclose()
