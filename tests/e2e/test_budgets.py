"""A budget holds in every dimension, to the last token, and isn't wasted by being careful."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, InternalServerError, OpenAI
from openai.types.chat import ChatCompletion

from tests.e2e.conftest import MODEL

REQUESTS = 200
SIDE_BY_SIDE = 12
STRATEGIES = ("single", "majority", "best_of_n", "beam", "rebase", "particles", "mcts", "refine")
LATE_SECONDS = 0.5
"""How long after its deadline a reply may come."""
CROWD_SECONDS = 1.5
"""The same where a dozen requests share two cores with three engines."""


def ask(question: str, **said: Any) -> dict[str, Any]:
    """The arguments of a request; `said` goes into our object."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": said.pop("max_tokens", 256),
        "seed": said.pop("seed", 1),
        "extra_body": {"longthink": said},
    }


PATIENCE_SECONDS = 270
"""Until when requests may be refused as out of time: longer than all of them take together."""


async def insist(client: AsyncOpenAI, asked: dict[str, Any], until: float) -> ChatCompletion:
    """Ask, and again whenever it is told to, for as long as a deadline is too near.

    That ends at the latest when the others are done: whoever asks alone is never told to wait.
    """
    while time.monotonic() < until:
        try:
            reply: ChatCompletion = await client.chat.completions.create(**asked)
            return reply
        except InternalServerError as refused:
            if refused.code != "deadline_unreachable":
                raise
            assert "deadline_seconds" in asked["extra_body"]["longthink"]["budget"]
            await asyncio.sleep(float(refused.response.headers["retry-after"]))
    raise AssertionError(f"Refused to the end: {asked}")


async def test_no_budget_is_overspent(
    openai_async: AsyncOpenAI, hard: Callable[[int], list[str]]
) -> None:
    """Two hundred requests with random budgets in every dimension: none over by one, most answered.

    Every kind of strategy is among them: whole samples, trees of steps, and refinements. Who is
    refused since a deadline is too near for all that there is to do comes again when it is told to.
    """
    dice = random.Random(1)
    until = time.monotonic() + PATIENCE_SECONDS
    gate = asyncio.Semaphore(SIDE_BY_SIDE)

    def budget() -> dict[str, float]:
        limits = {
            "completion_tokens": dice.randrange(1, 900),
            "reward_tokens": dice.randrange(1, 1500),
            "candidates": dice.randrange(1, 10),
            "deadline_seconds": dice.uniform(0.2, 8),
            "usd": dice.randrange(1, 400) / 1e6,
        }
        named = dice.sample(sorted(limits), dice.randrange(1, 4))
        return {name: limits[name] for name in named}

    async def one(question: str) -> tuple[dict[str, float], dict[str, Any]]:
        limits = budget()
        strategy = dice.choice(STRATEGIES)
        asked = ask(question, strategy=strategy, budget=limits, seed=dice.randrange(2**31))
        async with gate:
            reply = await insist(openai_async, asked, until)
        return limits, reply.model_dump()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(question)) for question in hard(REQUESTS)]
    replies = [task.result() for task in tasks]
    answered = sum(bool(reply["choices"][0]["message"]["content"]) for _, reply in replies)
    assert answered > REQUESTS / 2
    for limits, reply in replies:
        said = reply["longthink"]
        spent = said["spent"]
        if "deadline_seconds" in limits:
            assert spent["seconds"] <= limits["deadline_seconds"] + CROWD_SECONDS, (limits, said)
        for dimension in ("completion_tokens", "reward_tokens", "candidates", "usd"):
            if dimension in limits:
                assert spent[dimension] <= limits[dimension], (dimension, limits, said)


@pytest.mark.parametrize("strategy", ["beam", "rebase", "particles", "dvts"])
def test_a_tree_in_a_tight_budget_comes_to_an_answer(
    openai: OpenAI, hard: Callable[[int], list[str]], strategy: str
) -> None:
    """Three candidates' worth of tokens for sixteen: it is narrower, and has whole answers.

    Whatever was asked just before: short questions say nothing of what long ones take.
    """
    for number in range(20):
        openai.chat.completions.create(**ask(f"What is {number} + 2?", strategy="single"))
    answered = 0
    for question in hard(8):
        tight = {"candidates": 16, "completion_tokens": 400}
        reply = openai.chat.completions.create(**ask(question, strategy=strategy, budget=tight))
        said = reply.model_dump()["longthink"]
        assert said["spent"]["completion_tokens"] <= 400
        answered += said["answer"] is not None
    assert answered >= 7


def test_sixteen_mean_candidates_nearly_all_finish(
    openai: OpenAI, http: httpx.Client, hard: Callable[[int], list[str]]
) -> None:
    """On the budget of sixteen mean candidates, each free to take four times that, 13 finish."""
    finished = []
    for question in hard(4):
        free = openai.chat.completions.create(
            **ask(question, strategy="majority", stop="none", budget={"candidates": 16})
        ).model_dump()["longthink"]
        likely = free["spent"]["completion_tokens"] // 16
        bound = openai.chat.completions.create(
            **ask(
                question,
                strategy="majority",
                stop="none",
                budget={"candidates": 16, "completion_tokens": 16 * likely},
                max_tokens=4 * likely,
                seed=2,
            )
        ).model_dump()["longthink"]
        assert bound["spent"]["completion_tokens"] <= 16 * likely
        events = http.get(f"/v1/traces/{bound['trace_id']}").json()["events"]
        told = [event["data"] for event in events if event["kind"] == "told"]
        done = [it for it in told if it["candidate"] and it["candidate"]["finish"] == "stop"]
        finished.append(len(done))
        first = next(event["data"] for event in events if event["kind"] == "asked")
        assert len(first["tasks"]) == 16, "they are asked for side by side"
    assert min(finished) >= 13, finished


@pytest.mark.parametrize("streamed", [False, True])
def test_deadline_is_kept_with_the_best_there_is(
    openai: OpenAI, hard: Callable[[int], list[str]], streamed: bool
) -> None:
    """Two seconds for a search that would take far longer: an answer within half a second more."""
    asked = ask(
        hard(1)[0],
        strategy="best_of_n",
        stop="none",
        budget={"candidates": 512, "deadline_seconds": 2.0},
    )
    began = time.monotonic()
    if streamed:
        chunks = [
            chunk.model_dump() for chunk in openai.chat.completions.create(**asked, stream=True)
        ]
        said = next(chunk["longthink"] for chunk in chunks if chunk.get("longthink"))
    else:
        said = openai.chat.completions.create(**asked).model_dump()["longthink"]
    took = time.monotonic() - began
    assert said["stopped"] == "deadline"
    assert said["answer"] is not None
    assert took <= 2.0 + LATE_SECONDS
