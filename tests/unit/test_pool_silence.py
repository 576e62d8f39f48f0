"""What the pool of real workers does about replicas that say nothing, or aren't there.

As in test_pool_homes the replicas run in this process, behind a handle like Ray Serve's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from typing import Any, cast

import pytest
from ray.exceptions import RayError

from planner.errors import WorkersUnavailable
from tests.contract.pool_contract import ends, graded
from tests.unit.test_pool_homes import Method, Replicas, Response, call, workers
from workers.fake import Messages
from workers.messages import Generate, Grade, Graded, Prompt
from workers.pool import Handle, ServePool

SILENCE = 0.3


class Hanging(Replicas):
    """Replicas of which some take what they are given, say a few words, and then no more."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(seconds)
        self.hung: set[str] = set()

    async def _run(self, name: str, batch: tuple[Generate, ...]) -> AsyncIterator[Any]:
        if name not in self.hung:
            async for item in super()._run(name, batch):
                yield item
            return
        yield name
        for _ in range(2):
            await asyncio.sleep(0.02)
            yield ()
        await asyncio.Event().wait()

    async def _prepare(self, messages: Messages, *, avoid: tuple[str, ...]) -> Prompt:
        if min(self.alive) in self.hung and min(self.alive) not in avoid:
            await asyncio.Event().wait()
        return await super()._prepare(messages, avoid=avoid)


def pool_of(replicas: Replicas, **more: Any) -> ServePool:
    return ServePool(cast("Handle", replicas), generators=2, silence_seconds=SILENCE, **more)


async def test_what_a_silent_replica_has_is_lost() -> None:
    """Its calls end as lost after the time that it may be silent, the others' end well."""
    replicas = Hanging()
    replicas.hung.add("a")
    pool = pool_of(replicas)
    batch = (call(), call())
    ended = await ends(pool.generate(batch))
    lost = {one.worker for one in ended.values() if one.lost}
    assert lost == {"a"}
    assert {one.worker for one in ended.values() if not one.lost} == {"b"}
    assert any("said nothing" in (one.error or "") for one in ended.values())


async def test_signs_of_life_are_enough() -> None:
    """A batch may take far longer than a replica may be silent."""

    class Slow(Replicas):
        """Ends nothing for long, and says that it is there."""

        async def _run(self, name: str, batch: tuple[Generate, ...]) -> AsyncIterator[Any]:
            first = super()._run(name, batch)
            yield await anext(first)
            for _ in range(12):
                await asyncio.sleep(SILENCE / 4)
                yield ()
            async for item in first:
                yield item

    ended = await ends(pool_of(Slow()).generate((call(), call())))
    assert not any(one.lost for one in ended.values())


async def test_a_hung_replica_is_left_alone_and_found_again() -> None:
    """All goes to the other one, until a probe shows that it is well."""
    replicas = Hanging()
    pool = pool_of(replicas)
    (home,) = await workers(pool, ("r", 0))
    await workers(pool, (), ())
    replicas.hung.add(home)
    assert (await ends(pool.generate((call(("r", 0, 0)),)))).popitem()[1].lost
    assert pool.breakers() == {home: "open"}
    assert set(await workers(pool, ("r", 0, 0), (), ("r", 0, 1), ())) == replicas.alive.keys() - {
        home
    }
    replicas.hung.clear()
    async with asyncio.timeout(10):
        while home not in await workers(pool, (), (), ()):
            await asyncio.sleep(0.05)
    assert pool.breakers() == {}


async def test_a_probe_that_is_lost_keeps_the_replica_out() -> None:
    """One batch finds out that it still hangs; those beside it go elsewhere."""
    replicas = Hanging()
    replicas.hung.add("a")
    pool = pool_of(replicas)
    await ends(pool.generate((call(), call())))
    async with asyncio.timeout(10):
        while pool.breakers()["a"] != "half-open":
            await asyncio.sleep(0.02)
    ended = await asyncio.gather(*(ends(pool.generate((call(),))) for _ in range(6)))
    assert sum(one.lost for some in ended for one in some.values()) == 1
    assert pool.breakers() == {"a": "open"}


async def test_a_second_try_goes_elsewhere() -> None:
    """Whichever replica has a call, what is sent as its rival is for another one."""
    replicas = Hanging(seconds=5.0)
    pool = pool_of(replicas)
    first = call(("r", 0))
    assert not pool.elsewhere(first.id)
    reading = asyncio.ensure_future(ends(pool.generate((first,))))
    async with asyncio.timeout(5):
        while not pool.elsewhere(first.id):
            await asyncio.sleep(0.01)
    others = [replace(call(("r", 0)), rival=first.id) for _ in range(3)]
    streams = [asyncio.ensure_future(ends(pool.generate((one,)))) for one in others]
    await asyncio.sleep(0.05)
    await pool.cancel([one.id for one in (first, *others)])
    home = (await reading)[first.id].worker
    for stream in streams:
        assert {one.worker for one in (await stream).values()} == replicas.alive.keys() - {home}
    assert not pool.elsewhere(first.id)


async def test_a_prompt_is_asked_of_another_where_one_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What costs nothing is asked again after a moment, and the first to answer is heard."""
    monkeypatch.setattr("workers.pool._BACKUP_SECONDS", 0.05)
    asked = 0

    async def prepare(messages: Messages, *, avoid: tuple[str, ...]) -> Prompt:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        if asked == 2:
            raise RayError("that one is gone")
        return Prompt((1, 2), 10)

    replicas = Replicas()
    replicas.prepare = Method(prepare)
    assert await pool_of(replicas).prepare((("user", "Well?"),)) == Prompt((1, 2), 10)
    assert asked == 3


async def test_a_prompt_that_nobody_takes_is_refused() -> None:
    """After as long as it may take to have another, it says that no generator answers."""

    async def prepare(messages: Messages, *, avoid: tuple[str, ...]) -> Prompt:
        raise RayError("that one is gone")

    replicas = Replicas()
    replicas.prepare = Method(prepare)
    with pytest.raises(WorkersUnavailable, match="No generator answers: that one is gone"):
        await pool_of(replicas, patience_seconds=0.5).prepare((("user", "Well?"),))


async def test_a_prompt_waits_for_replicas_that_are_being_replaced() -> None:
    """Several that go one after the other are no reason to refuse a request."""
    asked = 0

    async def prepare(messages: Messages, *, avoid: tuple[str, ...]) -> Prompt:
        nonlocal asked
        asked += 1
        if asked < 5:
            raise RayError("that one is going")
        return Prompt((1, 2), 10)

    replicas = Replicas()
    replicas.prepare = Method(prepare)
    assert await pool_of(replicas).prepare((("user", "Well?"),)) == Prompt((1, 2), 10)


class Absent:
    """A handle behind which there is no replica, until there is one."""

    def __init__(self) -> None:
        self.back = asyncio.Event()
        self.sent = 0

    def options(self, *, method_name: str, stream: bool) -> Absent:
        return self

    def remote(self, batch: tuple[Grade, ...], *, home: str, avoid: tuple[str, ...]) -> Response:
        self.sent += 1
        return Response(self._run(batch))

    async def _run(self, batch: tuple[Grade, ...]) -> AsyncIterator[Any]:
        await self.back.wait()
        yield "r"
        yield tuple(Graded(it.id, "done", (0.5,), worker="r") for it in batch)


async def test_a_reward_model_that_is_gone_is_waited_for_once() -> None:
    """Then what it is asked fails at once, and isn't lost, but for a probe now and then; it is
    found again.
    """
    reward = Absent()
    pool = pool_of(Replicas(), reward=cast("Handle", reward), grading_patience_seconds=0.2)

    async def grade() -> bool:
        one = Grade(f"grade-{time.monotonic_ns()}", (("user", "?"),), ("a",), 100)
        ended.append((await graded(pool.grade((one,))))[one.id])
        return ended[-1].finish == "failed"

    ended: list[Graded] = []
    assert await grade()
    assert ended[-1].lost
    began = time.monotonic()
    assert all([await grade() for _ in range(20)])
    assert sum(one.lost for one in ended) == reward.sent
    assert {one.worker for one in ended} == {""}
    assert reward.sent <= 1 + (time.monotonic() - began) // 1.0 + 1
    reward.back.set()
    async with asyncio.timeout(10):
        while await grade():
            await asyncio.sleep(0.05)
    assert not any([await grade() for _ in range(5)])


async def test_a_probe_that_nobody_wants_any_more_makes_room_for_another() -> None:
    """It is cancelled before a reward model took it: the next one finds out what it was to."""
    reward = Absent()
    pool = pool_of(Replicas(), reward=cast("Handle", reward), grading_patience_seconds=0.2)
    names = (f"grade-{place}" for place in count())

    def one() -> Grade:
        return Grade(next(names), (("user", "?"),), ("a",), 100)

    ended: list[Graded] = []
    await graded(pool.grade((one(),)))
    async with asyncio.timeout(10):
        while reward.sent < 2:
            probe = one()
            reading = asyncio.ensure_future(graded(pool.grade((probe,))))
            await asyncio.sleep(0.02)
            await pool.cancel([probe.id])
            ended.append((await reading)[probe.id])
    assert ended[-1].finish == "cancelled"
    reward.back.set()
    last = one()
    assert (await graded(pool.grade((last,))))[last.id].finish == "done"


async def test_a_replica_that_stops_makes_no_cancellation_fail() -> None:
    """Serve says of it that it was cancelled itself, which nobody here was."""

    class Stopping(Replicas):
        """Replicas that are stopped when they are to cancel anything."""

        async def _stop(self, ids: Any, *, replica: str) -> None:
            raise asyncio.CancelledError

    replicas = Stopping(seconds=0.3)
    replicas.cancel = Method(replicas._stop)
    pool = pool_of(replicas)
    first = call()
    reading = asyncio.ensure_future(ends(pool.generate((first,))))
    await asyncio.sleep(0.1)
    await pool.cancel([first.id])
    await reading
