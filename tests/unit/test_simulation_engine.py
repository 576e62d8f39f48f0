"""A simulated engine takes the times that can be worked out by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from services.simulation import clock
from services.simulation.cores import Cores
from services.simulation.engine import Engine, Job
from services.simulation.model import EngineModel
from services.simulation.orchestrator import Orchestrator

PLAIN = EngineModel(
    step_seconds=0.010,
    sequence_seconds=0.001,
    prompt_token_seconds=0.0001,
    call_seconds=0.002,
    block_size=16,
)


class Ends:
    """Jobs, and when each ended."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.jobs: dict[str, Job] = {}

    def job(self, name: str, prompt: int, length: int, **more: Any) -> Job:
        """A job with a prompt unlike that of any other name."""
        tokens = (hash(name), *range(prompt - 1))
        self.jobs[name] = Job(tokens, length, lambda _: self._ended(name), **more)
        return self.jobs[name]

    def _ended(self, name: str) -> None:
        assert name not in self.at, "it has ended before"
        self.at[name] = asyncio.get_running_loop().time()


def on_clock(main: Callable[[Ends], Coroutine[Any, Any, None]]) -> Ends:
    """What `main` has to say once nothing runs any more."""
    ends = Ends()

    async def run() -> None:
        await main(ends)
        await asyncio.sleep(1000)

    clock.run(run())
    return ends


def test_a_call_alone_takes_its_prompt_and_its_steps() -> None:
    """Ten tokens after a prompt of 100: its reading, then ten steps of one sequence."""

    async def main(ends: Ends) -> None:
        Engine(PLAIN).submit(ends.job("a", 100, 10))

    ends = on_clock(main)
    assert ends.at["a"] == pytest.approx(0.002 + 100 * 0.0001 + 10 * 0.011)
    assert ends.jobs["a"].made == 10


def test_calls_of_one_instant_share_all_steps() -> None:
    """Two together: both prompts are read with the first step; the shorter leaves first."""

    async def main(ends: Ends) -> None:
        engine = Engine(PLAIN)
        engine.submit(ends.job("a", 100, 5))
        engine.submit(ends.job("b", 50, 8))

    ends = on_clock(main)
    first = 2 * 0.002 + 150 * 0.0001 + 5 * 0.012
    assert ends.at["a"] == pytest.approx(first)
    assert ends.at["b"] == pytest.approx(first + 3 * 0.011)


def test_a_call_waits_for_the_end_of_the_step() -> None:
    """One that comes in mid-step begins with the next one, which its prompt makes longer."""

    async def main(ends: Ends) -> None:
        engine = Engine(PLAIN)
        engine.submit(ends.job("a", 100, 10))
        await asyncio.sleep(0.012 + 2.5 * 0.011)  # the third step is half over
        engine.submit(ends.job("b", 40, 2))

    ends = on_clock(main)
    joined = 0.012 + 3 * 0.011
    both = 0.002 + 40 * 0.0001 + 2 * 0.012
    assert ends.at["b"] == pytest.approx(joined + both)
    assert ends.at["a"] == pytest.approx(joined + both + 5 * 0.011)


def test_contexts_that_grow_make_steps_longer() -> None:
    """With a cost for each token in the KV cache, each step takes a little more than the last."""
    model = replace(PLAIN, kv_token_seconds=0.00001)

    async def main(ends: Ends) -> None:
        Engine(model).submit(ends.job("a", 100, 50))

    steps = sum(0.011 + (100 + made) * 0.00001 for made in range(50))
    assert on_clock(main).at["a"] == pytest.approx(0.012 + steps)


def test_what_has_no_room_waits_in_order_of_priority() -> None:
    """At most so many run; of those that wait the lowest priority is first, then who came first."""
    model = replace(PLAIN, max_num_seqs=1)

    async def main(ends: Ends) -> None:
        engine = Engine(model)
        for name, priority in (("a", 0), ("b", 1), ("c", 0), ("d", 0)):
            engine.submit(ends.job(name, 10, 4, priority=priority))

    assert list(on_clock(main).at) == ["a", "c", "d", "b"]


def test_a_prompt_that_was_read_is_read_from_the_cache() -> None:
    """Of a prompt that is known, only what is beyond its full blocks is read, and told so."""

    async def main(ends: Ends) -> None:
        engine = Engine(PLAIN)
        first = ends.job("a", 40, 1)
        engine.submit(first)
        await asyncio.sleep(1)
        ends.jobs["b"] = Job(first.prompt, 1, lambda _: ends._ended("b"))
        engine.submit(ends.jobs["b"])

    ends = on_clock(main)
    assert (ends.jobs["a"].cached, ends.jobs["b"].cached) == (0, 32)
    assert ends.at["b"] - 1 == pytest.approx(0.002 + 8 * 0.0001 + 0.011)


def test_a_cancelled_call_ends_with_its_step() -> None:
    """It has what was made until then, and the others go on without it."""

    async def main(ends: Ends) -> None:
        engine = Engine(PLAIN)
        engine.submit(ends.job("a", 100, 100))
        engine.submit(ends.job("b", 100, 10))
        await asyncio.sleep(0.024 + 4.5 * 0.012)
        engine.cancel(ends.jobs["a"])
        engine.cancel(ends.jobs["a"])

    ends = on_clock(main)
    assert ends.jobs["a"].made == 5
    assert ends.at["a"] == pytest.approx(0.024 + 5 * 0.012)
    assert ends.at["b"] == pytest.approx(0.024 + 5 * 0.012 + 5 * 0.011)


def test_a_call_that_waits_ends_at_once_when_it_is_cancelled() -> None:
    """Nothing was made of it, and its place is free."""

    async def main(ends: Ends) -> None:
        engine = Engine(replace(PLAIN, max_num_seqs=1))
        for name in "abc":
            engine.submit(ends.job(name, 10, 10))
        await asyncio.sleep(0.020)
        engine.cancel(ends.jobs["b"])
        assert engine.waiting == 1

    ends = on_clock(main)
    assert ends.at["b"] == pytest.approx(0.020)
    assert ends.jobs["b"].made == 0
    assert ends.at["a"] < ends.at["c"] == pytest.approx(2 * ends.at["a"])


def test_what_outgrows_the_cache_goes_back_and_is_read_anew() -> None:
    """Two that don't fit to their ends: the later one stops, waits, and goes on where it was."""
    model = replace(PLAIN, kv_tokens=100)

    async def main(ends: Ends) -> None:
        engine = Engine(model)
        engine.submit(ends.job("a", 30, 40))
        engine.submit(ends.job("b", 30, 40))

    ends = on_clock(main)
    together = 0.004 + 60 * 0.0001 + 21 * 0.012  # then they have 102 tokens
    alone = together + 19 * 0.011
    # Its full block is still in the prefix cache; the other 35 tokens are read again.
    again = 0.002 + (51 - 16) * 0.0001 + 19 * 0.011
    assert ends.at["a"] == pytest.approx(alone)
    assert ends.at["b"] == pytest.approx(alone + again)
    assert (ends.jobs["a"].made, ends.jobs["b"].made) == (40, 40)


def test_what_is_too_much_is_refused() -> None:
    """Beyond what may be queued a call ends at once, and says why."""

    async def main(ends: Ends) -> None:
        engine = Engine(replace(PLAIN, max_queued_requests=2))
        for name in "abc":
            engine.submit(ends.job(name, 10, 10))

    ends = on_clock(main)
    assert [ends.jobs[name].refused for name in "abc"] == [False, False, True]
    assert ends.at["c"] == 0


def test_engines_on_too_few_cores_slow_each_other() -> None:
    """Two engines that want a core each, on one: as long as both are busy, each has half."""

    async def main(ends: Ends) -> None:
        cores = Cores(1)
        one, other = Engine(PLAIN, cores), Engine(PLAIN, cores)
        one.submit(ends.job("a", 100, 10))
        await asyncio.sleep(0.034)  # two steps after its prompt
        other.submit(ends.job("b", 100, 4))

    ends = on_clock(main)
    # b's 0.056 s of work take twice as long; a does as much of its remaining 0.088 in that time.
    assert ends.at["b"] == pytest.approx(0.034 + 2 * 0.056)
    assert ends.at["a"] == pytest.approx(0.034 + 2 * 0.056 + 0.088 - 0.056)


def test_an_orchestrator_is_busy_only_while_it_does_something() -> None:
    """Beginning on cores that others keep busy doesn't count what it was idle for."""

    async def main() -> list[float]:
        cores = Cores(1.0)
        first, second = Orchestrator(cores), Orchestrator(cores)
        await first.spend(1.0)
        await asyncio.sleep(5.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.spend(1.0))
            group.create_task(second.spend(1.0))
        return [first.busy_seconds, second.busy_seconds]

    # The second time both run at half their speed.
    assert clock.run(main()) == [pytest.approx(3.0), pytest.approx(2.0)]
