"""What the path costs: requests over HTTP against the same engine called directly, in one run.

Run it on a quiet machine: `python -m tests.bench.path [ROUNDS]`. It starts the embedded service
without its reward model, and beside it one more engine of the same options in its own process; then
it asks both the same questions in turn, with the same sampling seeds: both write the same tokens,
and a machine whose speed drifts is fair to both. It prints

- for `single`: milliseconds at the median, over HTTP and directly, and what the path adds;
- where that is added, by the trace: outside of it, which is HTTP, its body and the prompt in tokens
  (and how much of that an empty request takes), between driver and engine, and at the end;
- for 16 and 64 candidates side by side: tokens a second, and the ratio.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from rich.console import Console
from rich.table import Table

from planner.domain import derive_seed
from services.app import Service
from services.settings import RewardSettings, ServiceSettings, Settings
from workers.environment import set_environment
from workers.options import GeneratorOptions
from workers.reference.synthetic import queries

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

Made = TypeVar("Made")

ROUNDS = 40
MAX_TOKENS = 256
TEMPERATURE = 0.8


def main(rounds: int) -> None:
    settings = Settings(
        service=ServiceSettings(port=0, log_level="error"), reward=RewardSettings(enabled=False)
    )
    options = settings.generator.options()
    set_environment(options)
    with Service.start(settings) as service:
        asyncio.run(compare(service.url, options, rounds))
        gc.collect()  # the engine, while it can still say goodbye


async def compare(url: str, options: GeneratorOptions, rounds: int) -> None:
    """Both tables, printed."""
    from workers.engine import start_engine  # noqa: PLC0415 (imports vLLM: after the environment)

    engine = start_engine(options, scheduling_policy="priority")
    try:
        async with httpx.AsyncClient(base_url=url, timeout=300) as http:
            console = Console()
            for table in await single(engine, http, rounds):
                console.print(table)
            console.print(await wide(engine, http, max(3, rounds // 3)))
    finally:
        engine.shutdown()


async def single(engine: AsyncLLM, http: httpx.AsyncClient, rounds: int) -> tuple[Table, Table]:
    """The latency of one candidate, and where the path adds to it."""
    lines: list[dict[str, float]] = []
    for index, query in enumerate(queries("dev", "hard", rounds + 5, seed=0)):
        over, reply = await timed(ask(http, query.question, 1, index))
        direct, _ = await timed(drive(engine, query.question, 1, index))
        empty, _ = await timed(http.get("/health/live"))
        trace = await http.get(f"/v1/traces/{reply['longthink']['trace_id']}")
        at = {
            event["kind"]: event["seconds"] for event in trace.raise_for_status().json()["events"]
        }
        seconds = {
            "HTTP": over,
            "direct": direct,
            "added": over - direct,
            "outside the trace": over - at["closed"],
            "of it an empty request": empty,
            "driver to engine and back": at["told"] - at["asked"] - direct,
            "the end": at["closed"] - at["told"],
        }
        lines.append({name: one * 1e3 for name, one in seconds.items()})
    del lines[:5]  # the first warm up
    middle = {name: median(line[name] for line in lines) for name in lines[0]}
    table = Table("single", "HTTP p50 ms", "direct p50 ms", "added p50 ms", "ratio")
    first = [f"{middle.pop(name):.1f}" for name in ("HTTP", "direct", "added")]
    ratio = float(first[0]) / float(first[1])
    table.add_row(f"{rounds} rounds", *first, f"{ratio:.2f}")
    parts = Table("where it is added", "p50 ms")
    for name, milliseconds in middle.items():
        parts.add_row(name, f"{milliseconds:.1f}")
    return table, parts


async def wide(engine: AsyncLLM, http: httpx.AsyncClient, rounds: int) -> Table:
    """The throughput of many candidates of one question."""
    table = Table("candidates", "HTTP tokens/s", "direct tokens/s", "ratio")
    for candidates in (16, 64):
        over, direct = [], []
        for index, query in enumerate(queries("dev", "hard", rounds + 1, seed=candidates)):
            asked = query.question
            seconds, reply = await timed(ask(http, asked, candidates, index))
            over.append(reply["usage"]["completion_tokens"] / seconds)
            seconds, tokens = await timed(drive(engine, asked, candidates, index))
            direct.append(tokens / seconds)
        ratio = median(one / other for one, other in zip(over[1:], direct[1:], strict=True))
        table.add_row(
            str(candidates),
            f"{median(over[1:]):.0f}",
            f"{median(direct[1:]):.0f}",
            f"{ratio:.2f}",
        )
    return table


async def timed(call: Awaitable[Made]) -> tuple[float, Made]:
    """Seconds it took, and what came of it."""
    began = time.perf_counter()
    made = await call
    return time.perf_counter() - began, made


async def ask(http: httpx.AsyncClient, question: str, candidates: int, seed: int) -> Any:
    """The reply to the question over the whole path."""
    strategy = "single" if candidates == 1 else "majority"
    reply = await http.post(
        "/v1/chat/completions",
        json={
            "model": "longthink-reference",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": MAX_TOKENS,
            "seed": seed,
            "temperature": TEMPERATURE,
            "longthink": {
                "strategy": strategy,
                "stop": "none",
                "budget": {"candidates": candidates},
            },
        },
    )
    return reply.raise_for_status().json()


async def drive(engine: AsyncLLM, question: str, candidates: int, seed: int) -> int:
    """The question on the bare engine, one request a candidate; returns the completion tokens."""
    from vllm import SamplingParams  # noqa: PLC0415 (see main)
    from vllm.inputs import TokensPrompt  # noqa: PLC0415
    from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

    chat: list[Any] = [{"role": "user", "content": question}]
    prompt: Any = engine.get_tokenizer().apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )

    async def one(index: int) -> int:
        params = SamplingParams(
            temperature=TEMPERATURE,
            max_tokens=MAX_TOKENS,
            seed=derive_seed(seed, (index,)),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        made = 0
        name = f"{candidates}-{seed}-{index}"
        async for output in engine.generate(TokensPrompt(prompt_token_ids=prompt), params, name):
            made = len(output.outputs[0].token_ids)
        return made

    return sum(await asyncio.gather(*(one(index) for index in range(candidates))))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else ROUNDS)
