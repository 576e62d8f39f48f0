"""Virtual time: nothing waits in earnest, and all happens in its order."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.simulation import clock


def test_hours_pass_in_no_time() -> None:
    """A day of sleep takes no time, and the clock says that it was a day."""

    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert clock.run(main()) == pytest.approx(86_400)
    assert time.perf_counter() - began < 60


def test_timers_come_in_the_order_of_their_times() -> None:
    """Whoever waits less is first, whatever the order in which they began to wait."""
    order = []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append((seconds, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(*map(wait, (3.0, 1.0, 2.0, 0.5)))

    clock.run(main())
    assert [seconds for seconds, _ in order] == [0.5, 1.0, 2.0, 3.0]
    assert [at for _, at in order] == pytest.approx([0.5, 1.0, 2.0, 3.0])


def test_a_timeout_is_one_of_virtual_time() -> None:
    """A deadline comes when the clock says so, and not before."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        async with asyncio.timeout(5):
            await asyncio.sleep(4.9)
        return asyncio.get_running_loop().time()

    assert clock.run(main()) == pytest.approx(9.9)


def test_the_same_program_does_the_same() -> None:
    """Tasks that hand one another the turn do so in the same order every time."""

    def order() -> list[tuple[int, float]]:
        seen = []

        async def go(name: int) -> None:
            for turn in range(5):
                await asyncio.sleep((name * 7 + turn * 3) % 5 / 10)
                seen.append((name, asyncio.get_running_loop().time()))

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                for name in range(8):
                    group.create_task(go(name))

        clock.run(main())
        return seen

    assert order() == order()


def test_what_nobody_would_ever_wake_is_told() -> None:
    """Where all wait for a future that nobody will set, it ends with an error, not never."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(clock.Stuck, match="no timer"):
        clock.run(main())
