"""Plans on real engines: their steps, their budgets, deadlines, and the default, which decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from openai import OpenAI
from playwright.async_api import Page, expect

from services.app import Service
from services.evaluation.retrace import retrace
from tests.e2e.conftest import MODEL, Counters
from tests.e2e.test_page import click, engines_stopped
from workers.reference.synthetic import queries

TOKENS = 2400
LATE_SECONDS = 0.5
"""How long after its deadline a reply may come."""

COMPOUND = [query.question for query in queries("test", "compound", 8, seed=7)]


def ask(openai: OpenAI, question: str, **said: Any) -> dict[str, Any]:
    """Ask with these options of ours; the whole reply."""
    reply = openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        seed=1,
        extra_body={"longthink": said},
    )
    return reply.model_dump()


def trace_of(http: httpx.Client, reply: dict[str, Any]) -> dict[str, Any]:
    trace: dict[str, Any] = http.get(f"/v1/traces/{reply['longthink']['trace_id']}").json()
    return trace


def told(trace: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event["data"] for event in trace["events"] if event["kind"] == kind]


def writer(one: dict[str, Any]) -> str:
    """What kind of worker wrote something, by its name."""
    return str(one["worker"]).partition("-")[0]


@pytest.mark.parametrize("said", [{"inner": "particles"}, {"inner": "majority"}, {}])
def test_a_plan_is_followed_and_counted(
    openai: OpenAI, http: httpx.Client, counters: Callable[[], Counters], said: dict[str, str]
) -> None:
    """What the engines counted is what the reply says, and the trace explains every token.

    The planner's engine writes the plans, and nothing else.
    """
    before = counters()
    budget = {"completion_tokens": TOKENS, "candidates": 64}
    reply = ask(openai, COMPOUND[0], strategy="plan", budget=budget, **said)
    made = counters() - before
    spent = reply["longthink"]["spent"]
    assert spent["unreported_calls"] == 0
    assert made.completion_tokens == spent["completion_tokens"] <= TOKENS
    assert made.reward_tokens == spent["reward_tokens"]
    trace = trace_of(http, reply)
    (planned, *_) = told(trace, "planned")
    assert len(planned["steps"]) > 1
    assert [step["id"] for step in told(trace, "step") if step["state"] == "ended"]
    costs = [one["cost"]["completion_tokens"] for one in told(trace, "told")]
    assert sum(costs) == made.completion_tokens
    began = [one for one in told(trace, "told") if one["worker"]]
    written = [one for one in began if one["id"].startswith("expand:")]
    drafts = [one for one in written if one["id"].startswith("expand:0.")]
    assert {writer(one) for one in drafts} == {"planner"}
    assert {writer(one) for one in written if one not in drafts} == {"generator"}
    planned = sum(one["cost"]["completion_tokens"] for one in drafts)
    assert planned == made.planned_tokens > 0
    assert reply["choices"][0]["message"]["content"]
    assert retrace(trace).same


def test_the_default_decides_by_itself(openai: OpenAI, http: httpx.Client) -> None:
    """Easy questions take two samples; why anything else was done is in the trace."""
    easy = [query.question for query in queries("test", "easy", 12, seed=7)]
    replies = [ask(openai, question) for question in easy]
    assert {reply["longthink"]["strategy"] for reply in replies} == {"auto"}
    taken = sorted(reply["longthink"]["spent"]["candidates"] for reply in replies)
    assert taken[len(taken) // 3] == 2
    for reply in [*replies[:2], ask(openai, COMPOUND[1])]:
        trace = trace_of(http, reply)
        decided = told(trace, "decided")
        assert [decided[0]["what"], decided[-1]["what"]] == ["probe", "stop"]
        assert all(one["why"] for one in decided)
        assert retrace(trace).same


@pytest.mark.parametrize("strategy", ["plan", "auto", "least_to_most", "atoms"])
def test_a_deadline_is_kept_in_mid_plan(openai: OpenAI, strategy: str) -> None:
    """However far the plan has come, there is an answer by then."""
    for seconds, question in zip((1.0, 2.0, 3.0), COMPOUND[2:], strict=False):
        began = time.monotonic()
        budget = {"deadline_seconds": seconds, "candidates": 256}
        reply = ask(openai, question, strategy=strategy, stop="none", budget=budget)
        assert time.monotonic() - began < seconds + LATE_SECONDS
        assert reply["choices"][0]["message"]["content"]


async def test_a_plan_is_seen_while_it_runs_and_clicked_through(
    service: Service, openai: OpenAI, http: httpx.Client, page: Page
) -> None:
    """From the plan to a step, to what was sampled for it, to one candidate's text."""
    await page.goto(service.url)
    steps = page.locator(".step")
    budget = {"completion_tokens": TOKENS, "candidates": 64}
    with engines_stopped():
        asked = partial(ask, openai, COMPOUND[5], strategy="plan", stop="none", budget=budget)
        asking = asyncio.create_task(asyncio.to_thread(asked))
        # Until it is there, the page shows the request before it.
        await expect(page.locator("#question")).to_contain_text(COMPOUND[5][:60])
        await expect(page.locator("#stopped")).to_contain_text("under way")
    await expect(steps.first).to_be_visible(timeout=30_000)
    with engines_stopped():
        await expect(page.locator("#stopped")).to_contain_text("under way")
        await expect(steps.first).to_be_visible()
    reply = await asking
    ours = reply["longthink"]
    trace = await asyncio.to_thread(trace_of, http, reply)
    last = [step for step in told(trace, "step") if step["state"] == "ended"][-1]
    await expect(page.locator("#answer")).to_have_text(ours["answer"])
    await expect(steps.first).to_be_visible()
    await steps.filter(has_text=last["question"][:20]).last.click()
    await expect(page.locator("#scope")).to_contain_text("finished of")
    under = f"expand:{'.'.join(map(str, last['path']))}."
    one = next(it for it in told(trace, "told") if it["id"].startswith(under) and it["candidate"])
    key = ".".join(map(str, one["candidate"]["path"]))
    await click(page, key)
    for line in one["candidate"]["text"].strip().split("\n"):
        await expect(page.locator("#detail pre").last).to_contain_text(line)
