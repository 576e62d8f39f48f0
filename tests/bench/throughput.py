"""Tokens a second through the pool, against the same engine driven directly, in one run.

    .venv/bin/python -m tests.bench.throughput [--model FOLDER] [--rounds N]

Both engines are up all the time and take turns, so that whatever else the machine does hits both
alike. Prints one JSON object a line: the number of sequences, tokens a second either way, and the
ratio of the two, which is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import time
from typing import Any

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 Ray spells its settings so

import ray
from ray import serve

from workers.deployments import generators
from workers.environment import set_environment
from workers.messages import Generate, Generated, Prompt
from workers.options import GeneratorOptions
from workers.pool import ServePool
from workers.reference import REASONER

QUESTION = (("user", "A crate holds 12 jars. How many jars are in 37 crates?"),)


class Direct:
    """The engine, in this process, with nothing between."""

    def __init__(self, options: GeneratorOptions) -> None:
        set_environment(options)
        from vllm.inputs.engine import tokens_input  # noqa: PLC0415 after its environment

        from workers.engine import start_engine  # noqa: PLC0415
        from workers.sampling import Sampling  # noqa: PLC0415

        self._llm = start_engine(options, scheduling_policy="priority")
        self._tokens_input = tokens_input
        self._sampling = Sampling

    async def tokens(self, batch: tuple[Generate, ...]) -> int:
        """Run the batch; how many tokens it made."""
        return sum(await asyncio.gather(*map(self._one, batch)))

    async def _one(self, call: Generate) -> int:
        parameters = self._sampling(call, lambda _: None).parameters([])
        made = 0
        async for output in self._llm.generate(
            self._tokens_input(list(call.prompt_ids)), parameters, call.id
        ):
            made = len(output.outputs[0].token_ids)
        return made

    def close(self) -> None:
        """End the engine."""
        self._llm.shutdown()


async def pooled(pool: ServePool, batch: tuple[Generate, ...]) -> int:
    """Run the batch through the pool; how many tokens it made."""
    events = pool.generate(batch)
    return sum([event.completion_tokens async for event in events if isinstance(event, Generated)])


def batch_of(prompt: Prompt, size: int, length: int, seed: int) -> tuple[Generate, ...]:
    """Candidates of one question, each with a seed of its own."""
    return tuple(
        Generate(f"{seed}.{i}", prompt.token_ids, length, seed=seed * size + i) for i in range(size)
    )


async def compare(
    pool: ServePool, direct: Direct, size: int, length: int, rounds: int
) -> dict[str, Any]:
    """Take turns; the first of either is for warming up and isn't counted."""
    prompt = await pool.prepare(QUESTION)
    speeds: list[tuple[float, float]] = []
    for turn in range(rounds + 1):
        pair = []
        for run in (lambda batch: pooled(pool, batch), direct.tokens):
            began = time.perf_counter()
            made = await run(batch_of(prompt, size, length, turn))
            pair.append(made / (time.perf_counter() - began))
        speeds.append((pair[0], pair[1]))
    counted = speeds[1:]
    return {
        "sequences": size,
        "pool_tokens_per_second": round(statistics.median(one for one, _ in counted)),
        "direct_tokens_per_second": round(statistics.median(two for _, two in counted)),
        "ratio": round(statistics.median(one / two for one, two in counted), 3),
    }


async def measure(options: GeneratorOptions, handle: Any, length: int, rounds: int) -> None:
    """Measure at 16 and at 64 sequences."""
    pool = ServePool(handle)
    direct = Direct(options)
    try:
        for size in (16, 64):
            print(json.dumps(await compare(pool, direct, size, length, rounds)))  # noqa: T201
    finally:
        direct.close()


def main() -> None:
    """Start both engines, measure, stop them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(REASONER), help="folder of a causal model")
    parser.add_argument("--length", type=int, default=128, help="tokens of a candidate at most")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    options = GeneratorOptions(model=arguments.model, kv_space_gib=0.5)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        serve.start(proxy_location="Disabled", logging_config=quiet)
        handle = serve.run(generators(options), route_prefix=None, logging_config=quiet)
        asyncio.run(measure(options, handle, arguments.length, arguments.rounds))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
