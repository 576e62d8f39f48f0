"""How the pool of real workers shares batches between replicas that it comes to know.

The replicas run in this process, each a fake pool, behind a handle that takes calls as Ray Serve's
does. What only engines and Serve can show is in tests/integration.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from itertools import count
from typing import Any, Self, cast

from ray.exceptions import RayError

from planner.domain import Writer
from tests.contract.pool_contract import ends
from workers.fake import FakePool, Messages, Script
from workers.messages import Branch, Generate, Generated, Prompt
from workers.pool import Handle, ServePool

_ids = count()


class Replicas:
    """A handle on two replicas, and a third that takes the place of one that dies."""

    def __init__(self, seconds: float = 0.0, names: str = "abc") -> None:
        first, second, spare = tuple(names)
        self.alive = {name: self._replica(name, seconds) for name in (first, second)}
        self.full: set[str] = set()
        self.batches: list[tuple[str, int]] = []
        self._spare = {spare: self._replica(spare, seconds)}
        self.prepare, self.cancel = Method(self._prepare), Method(self._cancel)

    def _replica(self, name: str, seconds: float) -> FakePool:
        return FakePool(lambda call: Script("x" * call.max_tokens, seconds), worker=name)

    def options(self, *, method_name: str, stream: bool) -> Self:
        assert (method_name, stream) == ("generate", True)
        return self

    def remote(self, batch: tuple[Generate, ...], *, home: str, avoid: tuple[str, ...]) -> Response:
        taken = Counter(name for name, _ in self.batches)
        ranked = sorted(self.alive, key=lambda one: (one in avoid, one != home, taken[one]))
        name = ranked[0]
        self.batches.append((name, len(batch)))
        return Response(self._run(name, batch))

    async def _run(self, name: str, batch: tuple[Generate, ...]) -> AsyncIterator[Any]:
        yield name
        if name in self.full:
            yield tuple(Generated(call.id, "failed", worker=name, lost=True) for call in batch)
            return
        async for event in self.alive[name].generate(batch):
            if name not in self.alive:
                raise RayError(f"{name} is gone")
            yield (event,)

    async def _prepare(self, messages: Messages, *, avoid: tuple[str, ...]) -> Prompt:
        name, replica = next(iter(self.alive.items()))
        return await replica.prepare((*messages, ("assistant", name)))

    async def _cancel(self, ids: Collection[str], *, replica: str) -> None:
        await self.alive[replica].cancel(ids)

    def broadcast(self, method: str) -> Answers:
        assert method == "counters"
        return Answers([(name, {}) for name in self.alive])

    def kill(self, name: str) -> None:
        """End a replica; another comes up instead."""
        del self.alive[name]
        self.alive.update(self._spare)


class Method:
    """A method of whichever replica, as a handle has it."""

    def __init__(self, remote: Callable[..., Awaitable[Any]]) -> None:
        self.remote = remote


class Answers:
    """What all replicas answered."""

    def __init__(self, answers: list[tuple[str, Any]]) -> None:
        self._answers = answers

    async def results_async(self) -> list[tuple[str, Any]]:
        return self._answers


class Response:
    """What comes of a streaming call."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items = items

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._items

    def cancel(self) -> None:
        """Nothing is left to cancel: the fake's stream ends with its reader."""


def pool_of(replicas: Replicas, planners: Replicas | None = None) -> ServePool:
    planner = cast("Handle | None", planners)
    return ServePool(cast("Handle", replicas), planner=planner, generators=2, planners=2)


def call(branch: Branch = (), length: int = 4, writer: Writer = "reasoner") -> Generate:
    return Generate(f"call-{next(_ids)}", (1, 2, 3), length, branch=branch, writer=writer)


async def workers(pool: ServePool, *branches: Branch) -> list[str]:
    """The replicas that ran calls of these branches, sent as one batch."""
    batch = tuple(call(branch) for branch in branches)
    ended = await ends(pool.generate(batch))
    return [ended[one.id].worker for one in batch]


async def test_a_batch_is_one_call_to_each_replica() -> None:
    """However its calls are mixed, a batch is sent at most once to a replica."""
    replicas = Replicas()
    pool = pool_of(replicas)
    await workers(pool, ("r", 0), ("r", 1), ("r", 2), ("r", 3))
    assert sorted(replicas.batches) == [("a", 2), ("b", 2)]
    await workers(pool, ("r", 1, 0), ("r", 0, 0), (), ("s", 0), ("r", 0, 1), ("r", 1, 1))
    assert sorted(replicas.batches[2:]) == [("a", 3), ("b", 3)]


async def test_children_go_where_their_parent_was_written() -> None:
    """Whichever replica took a node takes its children, and their children."""
    pool = pool_of(Replicas())
    first = await workers(pool, *(("r", place) for place in range(6)))
    assert set(first) == {"a", "b"}
    assert await workers(pool, *(("r", place, 0) for place in range(6))) == first
    assert await workers(pool, *(("r", place, 0, 9) for place in range(6))) == first


async def test_calls_in_flight_are_counted_until_they_end() -> None:
    """A replica that is full of other calls gives a branch up; once they have ended, it doesn't."""
    replicas = Replicas(seconds=0.2)
    pool = pool_of(replicas)
    (home,) = await workers(pool, ("r", 0))
    await workers(pool, (), ())
    busy = asyncio.ensure_future(workers(pool, *(("r", 0, place) for place in range(4))))
    await asyncio.sleep(0.05)
    assert await workers(pool, ("r", 0, 7)) != [home]
    assert await busy == [home] * 4
    assert await workers(pool, ("r", 0, 8)) == [home]


async def test_a_stream_that_is_dropped_counts_no_more() -> None:
    """What was in flight for a reader that went away is no load."""
    pool = pool_of(Replicas(seconds=0.2))
    (home,) = await workers(pool, ("r", 0))
    await workers(pool, (), ())
    reading = asyncio.ensure_future(workers(pool, *(("r", 0, place) for place in range(4))))
    await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.wait({reading})
    del reading
    assert await workers(pool, *(("r", 0, place) for place in range(4))) == [home] * 4


async def test_what_lived_with_a_lost_replica_goes_on_elsewhere() -> None:
    """Its calls end as lost; when they're tried again, another replica takes them."""
    replicas = Replicas(seconds=0.1)
    pool = pool_of(replicas)
    (home,) = await workers(pool, ("r", 0))
    await workers(pool, (), ())
    batch = (call(("r", 0, 0)), call(("r", 0, 1)))
    reading = asyncio.ensure_future(ends(pool.generate(batch)))
    await asyncio.sleep(0.05)
    replicas.kill(home)
    ended = await reading
    assert ended.keys() == {one.id for one in batch}
    assert all(one.lost and one.worker == home for one in ended.values())
    again = await workers(pool, ("r", 0, 0), ("r", 0, 1), ("r", 1), ("r", 2))
    assert home not in again
    assert await workers(pool, ("r", 0, 0, 0), ("r", 0, 1, 0)) == again[:2]


async def test_a_replica_that_was_replaced_unseen_is_no_home() -> None:
    """Calls for a replica that is gone are taken by another, and their branch lives there."""
    replicas = Replicas()
    pool = pool_of(replicas)
    first = await workers(pool, ("r", 0), ("r", 1))
    replicas.kill(first[0])
    (moved,) = await workers(pool, ("r", 0, 0))
    assert moved in replicas.alive
    assert await workers(pool, ("r", 0, 0, 0)) == [moved]


async def test_it_knows_which_part_of_the_replicas_is_there() -> None:
    """One that was lost is missing until another takes calls in its place."""
    replicas = Replicas(seconds=0.1)
    pool = pool_of(replicas)
    assert pool.present() == 1.0
    (home,) = await workers(pool, ("r", 0))
    await workers(pool, (), ())
    reading = asyncio.ensure_future(workers(pool, ("r", 0, 0)))
    await asyncio.sleep(0.05)
    replicas.kill(home)
    await reading
    assert pool.present() == 0.5
    await workers(pool, (), ())
    assert pool.present() == 1.0


async def test_a_call_that_a_full_replica_refuses_may_go_elsewhere() -> None:
    """Refused at home, a call isn't sent there again where another has as little to do."""
    replicas = Replicas()
    pool = pool_of(replicas)
    (home,) = await workers(pool, ("r", 0))
    await workers(pool, (), ())
    replicas.full.add(home)
    tried = [(await workers(pool, ("r", 0, 0)))[0] for _ in range(3)]
    assert tried[0] == home
    assert set(tried[1:]) != {home}


# With a planner


async def both(pool: ServePool, branch: Branch = ()) -> tuple[str, str]:
    """The replicas that wrote an answer and a plan, sent as one batch."""
    answer, plan = call(branch), call(branch, writer="planner")
    ended = await ends(pool.generate((answer, plan)))
    return ended[answer.id].worker, ended[plan.id].worker


async def test_plans_go_to_the_planners_replicas() -> None:
    """Also those of a branch that lives with a generator; without a planner they stay there."""
    replicas, planners = Replicas(), Replicas(names="pqr")
    pool = pool_of(replicas, planners)
    assert pool.plans
    for _ in range(3):
        generator, planner = await both(pool, ("r", 0))
        assert generator in replicas.alive
        assert planner in planners.alive
    alone = pool_of(replicas)
    assert not alone.plans
    assert set(await both(alone, ("r", 0))) <= replicas.alive.keys()


async def test_without_a_planner_a_batch_of_both_is_one_call_to_each_replica() -> None:
    """Who writes what makes no difference where all is written by one."""
    replicas = Replicas()
    batch = (call(), call(writer="planner"), call(writer="planner"), call())
    await ends(pool_of(replicas).generate(batch))
    assert sorted(replicas.batches) == [("a", 2), ("b", 2)]


async def test_prompts_are_made_by_those_who_read_them() -> None:
    """In the tokens of the planner what it is asked, in the reasoner's own all else."""
    asked = (("user", "Well?"),)
    pool = pool_of(Replicas(), Replicas(names="pqr"))
    said = [bytes((await pool.prepare(asked, it)).token_ids) for it in ("reasoner", "planner")]
    assert [b"<assistant>a" in said[0], b"<assistant>p" in said[1]] == [True, True]


async def test_a_lost_planner_loses_only_plans() -> None:
    """What a generator writes beside them comes to its end."""
    planners = Replicas(seconds=0.1, names="pqr")
    pool = pool_of(Replicas(seconds=0.1), planners)
    batch = (call(), call(writer="planner"), call(writer="planner"))
    reading = asyncio.ensure_future(ends(pool.generate(batch)))
    await asyncio.sleep(0.05)
    planners.kill("p")
    ended = await reading
    assert [ended[one.id].lost for one in batch] == [False, True, False]


async def test_plans_can_be_cancelled() -> None:
    """They end in the planner's replica, and the others go on."""
    pool = pool_of(Replicas(seconds=0.2), Replicas(seconds=60, names="pqr"))
    answer, plan = call(), call(writer="planner")
    reading = asyncio.ensure_future(ends(pool.generate((answer, plan))))
    await asyncio.sleep(0.05)
    await pool.cancel([plan.id])
    ended = await reading
    assert [ended[one.id].finish for one in (answer, plan)] == ["stop", "cancelled"]


async def test_a_pool_is_ready_once_its_planners_are() -> None:
    """As many as there should be of each, whatever the other has."""
    replicas, planners = Replicas(), Replicas(names="pqr")
    pool = pool_of(replicas, planners)
    assert await pool.ready()
    assert (await pool.counters()).keys() == {"a", "b", "p", "q"}
    del planners.alive["p"]
    assert not await pool.ready()
