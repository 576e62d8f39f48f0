"""The web page in a real browser, over real searches of the whole service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from playwright.async_api import Page, expect

from services.app import Service
from tests import processes
from tests.e2e.conftest import MODEL

PLACE = "async key => (await import('/web/main.js')).forest.where(key)"
"""Where the page has drawn a candidate, in pixels."""


async def click(page: Page, key: str) -> None:
    """Click a candidate where it is drawn, once it stays there."""
    before, place = None, await page.evaluate(PLACE, key)
    while place != before:
        await asyncio.sleep(0.5)
        before, place = place, await page.evaluate(PLACE, key)
    await page.mouse.click(place["x"], place["y"])


@contextmanager
def engines_stopped() -> Iterator[None]:
    """While inside, the engines stand still: what was asked of them is under way for as long."""
    kinds = ("generator", "planner", "reward")
    replicas = [it for kind in kinds for it in processes.replicas(f"longthink:{kind}")]
    engines = [one for replica in replicas for one in processes.engines(replica)]
    assert engines
    for one in engines:
        one.suspend()
    try:
        yield
    finally:
        for one in engines:
            one.resume()


def ask(
    client: AsyncOpenAI, question: str, strategy: str, candidates: int
) -> asyncio.Task[ChatCompletion]:
    """Ask, and go on while the service searches for so many candidates."""
    said = {"strategy": strategy, "stop": "none", "budget": {"candidates": candidates}}
    return asyncio.create_task(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            extra_body={"longthink": said},
        )
    )


def made(trace: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The candidates of a trace by their paths, each as it was told last."""
    found = {}
    for event in trace["events"]:
        if event["kind"] == "told" and (candidate := event["data"]["candidate"]):
            found[".".join(map(str, candidate["path"]))] = candidate
    return found


@pytest.mark.parametrize(("strategy", "candidates"), [("best_of_n", 256), ("beam", 64)])
async def test_a_search_is_seen_while_it_runs_and_read_when_it_is_over(
    service: Service,
    openai_async: AsyncOpenAI,
    hard: Callable[[int], list[str]],
    page: Page,
    strategy: str,
    candidates: int,
) -> None:
    """It appears by itself, grows, and ends; each candidate can be clicked and read."""
    await page.goto(service.url)
    with engines_stopped():
        asked = ask(openai_async, hard(1)[0], strategy, candidates)
        await expect(page.locator("#question")).to_contain_text(hard(1)[0][:60])
        await expect(page.locator("#stopped")).to_contain_text("under way")
        await expect(page.locator("#list li").first).to_contain_text("under way")
    await expect(page.locator("#scope")).to_contain_text("finished of", timeout=30_000)
    ours = (await asked).model_dump()["longthink"]
    await expect(page.locator("#answer")).to_have_text(ours["answer"])
    await expect(page.locator("#stopped")).to_contain_text(ours["stopped"])
    await expect(page.locator("#list li").first).to_contain_text(ours["answer"])
    await expect(page.locator(".vote .name").first).to_have_text(ours["votes"][0]["answer"])
    assert ours["trace_id"] in page.url

    response = await page.request.get(f"{service.url}/v1/traces/{ours['trace_id']}")
    nodes = made(await response.json())
    finished = {key: one for key, one in nodes.items() if one["finish"] == "stop"}
    key = sorted(finished)[len(finished) // 2]
    await page.locator("#canvas").focus()
    await click(page, key)
    detail = page.locator("#detail")
    await expect(detail.locator("h2")).to_contain_text(key)
    await expect(detail.locator("dd", has_text=f"{nodes[key]['score']:.3f}")).to_be_visible()
    for line in nodes[key]["text"].split("\n"):
        await expect(detail.locator("pre").last).to_contain_text(line)
    await expect(detail).to_contain_text("generated")


async def test_a_search_is_ended_from_the_page(
    service: Service, openai_async: AsyncOpenAI, hard: Callable[[int], list[str]], page: Page
) -> None:
    """The button ends the search that is under way, and its client has the best so far."""
    await page.goto(service.url)
    with engines_stopped():
        asked = ask(openai_async, hard(2)[1], "best_of_n", 2048)
        await expect(page.locator("#question")).to_contain_text(hard(2)[1][:60])
        await expect(page.locator("#stopped")).to_contain_text("under way")
        await page.get_by_role("button", name="End now").click()
        ours = (await asked).model_dump()["longthink"]
    assert ours["stopped"] == "cancelled"
    await expect(page.locator("#stopped")).to_contain_text("it was ended early")
    await expect(page.get_by_role("button", name="End now")).to_be_hidden()
