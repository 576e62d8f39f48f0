"""The web page in a real browser, over traces of searches that nobody ran."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, expect

from services.run import Reply
from services.trace import Event
from tests.contract import synthetic_traces
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    Play,
    ScriptedRun,
    Service,
    Shelf,
    Stage,
    serving,
    started,
    until_cancelled,
)
from tests.e2e.test_page import PLACE, click

SMOOTH_MS = 50.0
"""What a picture may take of the time until the next."""


@pytest.fixture
def shelf() -> Shelf:
    """The traces that the page is shown."""
    shelf = Shelf()
    shelf.silent_seconds = 60
    shelf.events["plan"] = synthetic_traces.planned()
    return shelf


@pytest.fixture
async def service(shelf: Shelf) -> AsyncIterator[Service]:
    """A service that has these traces."""
    async with serving(until_cancelled, Stage(traces=shelf)) as running:
        yield running


@asynccontextmanager
async def watched(
    page: Page, play: Play = until_cancelled, stage: Stage | None = None
) -> AsyncIterator[Service]:
    """A service that ends once the page has left it, which asks it for news all the time."""
    async with serving(play, stage) as running:
        yield running
        await page.goto("about:blank")


async def test_plan_step_tree_and_candidate_are_clicked_through(
    service: Service, page: Page
) -> None:
    """From the plan to a step, to its tree, to a candidate's text, score, cost and worker."""
    await page.goto(service.url)
    await expect(page.locator(".step")).to_have_count(5)
    await expect(page.locator(".graph path")).to_have_count(4)
    await expect(page.locator("#scope")).to_contain_text("Whole search")
    await page.locator(".step", has_text="left").click()
    await expect(page.locator("#scope")).to_have_text("Step left: 16 finished of 28 nodes")
    detail = page.locator("#detail")
    await expect(detail).to_contain_text("How many of 80 eggs are left when 21 are eaten?")
    await expect(page.locator(".vote .name").first).to_have_text(re.compile("59|60"))
    await click(page, "1.3.2.1.0")
    await expect(detail.locator("h2")).to_contain_text("1.3.2.1.0")
    await expect(detail).to_contain_text("0.723")
    await expect(detail).to_contain_text("generator-0")
    await expect(detail).to_contain_text("reward-0")
    await expect(detail).to_contain_text("60 prompt (32 cached), 40 generated")
    await expect(detail.locator(".steps div")).to_have_count(0)
    await expect(detail.locator("pre .taken")).to_contain_text("Line 2 of it")
    assert page.url.endswith("#plan/1.3/1.3.2.1.0")
    await page.reload()
    await expect(detail.locator("h2")).to_contain_text("1.3.2.1.0")
    await page.get_by_role("button", name="Whole search").click()
    await expect(page.locator("#scope")).to_contain_text("Whole search")


async def test_a_step_shows_the_plan_it_has_of_its_own(
    service: Service, shelf: Shelf, page: Page
) -> None:
    """A step that was planned itself, and again, opens its latest plan below the whole one."""
    shelf.events["nested"] = synthetic_traces.nested()
    await page.goto(service.url)
    await expect(page.locator(".plan")).to_have_count(1)
    await expect(page.locator(".step")).to_have_count(5)
    await page.locator(".step", has_text="money").click()
    await expect(page.locator(".plan")).to_have_count(2)
    own = page.locator(".plan").nth(1)
    await expect(own.locator("h2")).to_have_text("Plan 3 of 3, of step money")
    await expect(own.locator(".step")).to_have_count(1)
    await own.locator(".step").click()
    await expect(page.locator(".plan")).to_have_count(2)
    await expect(page.locator("#scope")).to_contain_text("Step other")


async def test_many_samples_are_a_list_in_columns(
    service: Service, shelf: Shelf, page: Page
) -> None:
    """What nothing grows from is all in sight at once, and each can be clicked by its words."""
    shelf.events["many"] = synthetic_traces.samples(230)
    await page.goto(service.url)
    await expect(page.locator("#scope")).to_contain_text("230 finished")
    size = await page.locator("#canvas").bounding_box()
    assert size is not None
    for number in (0, 60, 229):
        place = await page.evaluate(PLACE, str(number))
        assert size["y"] < place["y"] < size["y"] + size["height"]
        await page.mouse.click(place["x"] + 20, place["y"])
        await expect(page.locator("#detail h2")).to_have_text(re.compile(rf"[a-z]{number}$"))


async def test_why_and_on_what_it_was_spent_is_told(service: Service, page: Page) -> None:
    """The course has decisions, plan and end; the budget every dimension with its limit."""
    await page.goto(service.url)
    await expect(page.locator("#answer")).to_have_text("29.5")
    await expect(page.locator("#stopped")).to_contain_text("the candidates agreed enough")
    course = page.locator("#course")
    await expect(course).to_contain_text("decompose The question asks for several things")
    await expect(course).to_contain_text("A step that needs one which doesn't exist was repaired.")
    await expect(page.locator(".vote .number").nth(2)).to_have_text("9")
    await course.get_by_role("button", name="left ended").click()
    await expect(page.locator("#scope")).to_contain_text("Step left")
    await expect(page.locator("#budget")).to_contain_text("2,172 of 6,000")
    await expect(page.locator("#budget svg .rise")).to_have_count(4)


async def test_the_scores_of_steps_stand_beside_them(service: Service, page: Page) -> None:
    """Where each line of a candidate has a score, it is read with it."""
    await page.goto(f"{service.url}/#plan/1.0/1.0.0")
    steps = page.locator("#detail .steps div")
    await expect(steps).to_have_count(3)
    await expect(steps.first.locator("small")).to_have_text(re.compile(r"[01]\.\d\d"))
    assert "How many eggs do 16 hens lay" in await steps.first.inner_text()


async def test_a_tree_of_two_thousand_nodes_moves_smoothly(
    service: Service, shelf: Shelf, page: Page
) -> None:
    """Laid out and drawn, whole or in part, it leaves time for every frame."""
    shelf.events["large"] = synthetic_traces.large(2000)
    await page.goto(service.url)
    await expect(page.locator("#scope")).to_contain_text("of 2,000 nodes", timeout=30_000)
    took: dict[str, Any] = await page.evaluate(
        """async () => {
          const { forest } = await import("/web/main.js");
          // The lower quartile: what it takes when nothing else has the machine.
          const usual = (act) => {
            const took = [];
            for (let turn = 0; turn < 21; turn++) {
              const began = performance.now();
              act(turn);
              took.push(performance.now() - began);
            }
            return took.sort((a, b) => a - b)[5];
          };
          const laidOut = usual(() => forest.show(forest.search, "", { fresh: true }));
          const whole = usual(() => forest.draw());
          const moved = usual((turn) => {
            forest.transform = forest._within(forest.transform.scale(1.1).translate(0, -9 * turn));
            forest.draw();
          });
          return { laidOut, whole, moved };
        }"""
    )
    assert max(took.values()) < SMOOTH_MS, took


async def test_what_a_model_wrote_is_text_and_nothing_else(
    service: Service, shelf: Shelf, page: Page
) -> None:
    """Markup in a question, an answer or a candidate is read, and does nothing."""
    shelf.events["samples"] = synthetic_traces.samples()
    await page.goto(f"{service.url}/#samples//1")
    await expect(page.locator("#detail pre")).to_contain_text("<script>")
    await expect(page.locator("#question")).to_contain_text("<img src=x")
    await expect(page.locator(".vote .name", has_text="<img")).to_be_visible()
    assert await page.title() == "longthink"
    assert await page.locator("img, #search script, aside script").count() == 0


async def test_the_page_asks_nobody_but_the_service(service: Service, page: Page) -> None:
    """Every request of the page goes to the service it came from."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(service.url)
    await expect(page.locator(".step")).to_have_count(5)
    assert len(asked) > 8
    assert all(url.startswith(service.url) for url in asked)


async def test_everything_can_be_reached_by_keyboard(service: Service, page: Page) -> None:
    """Requests, steps and candidates are chosen without a mouse, and left again by Escape."""
    await page.goto(service.url)
    await page.locator("#list button").first.focus()
    await page.keyboard.press("Enter")
    step = page.locator(".step", has_text="left")
    await step.focus()
    await page.keyboard.press("Enter")
    await expect(step).to_have_attribute("aria-pressed", "true")
    await page.locator("#canvas").focus()
    title = page.locator("#detail h2")
    for key, name in (
        ("ArrowRight", "1.3.0"),
        ("ArrowDown", "1.3.1"),
        ("ArrowRight", "1.3.1.0"),
        ("ArrowUp", "1.3.0.1"),
        ("ArrowLeft", "1.3.0"),
        ("End", "1.3.3"),
    ):
        await page.keyboard.press(key)
        await expect(title).to_have_text(re.compile(rf"candidate{re.escape(name)}$"))
    await page.keyboard.press("+")
    await page.keyboard.press("Escape")
    await expect(title).to_have_text(re.compile("^Step"))
    await page.keyboard.press("Escape")
    await expect(page.locator("#scope")).to_contain_text("Whole search")


async def test_the_theme_is_chosen_once(service: Service, page: Page) -> None:
    """Dark or light is the system's until a person says otherwise, and stays so."""
    await page.emulate_media(color_scheme="dark")
    await page.goto(service.url)
    root = page.locator("html")
    await expect(root).to_have_attribute("data-theme", "dark")
    await page.get_by_role("button", name="Switch between dark and light").click()
    await expect(root).to_have_attribute("data-theme", "light")
    await page.reload()
    await expect(root).to_have_attribute("data-theme", "light")


async def test_a_search_grows_before_ones_eyes(page: Page) -> None:
    """Candidates, standing and end are shown as they come, without anything being asked again."""
    events = synthetic_traces.samples(6)

    async def course(run: ScriptedRun) -> Reply:
        await run.cancelled.wait()
        return run.comes_to()

    shelf = Shelf()
    async with watched(page, course, Stage(traces=shelf)) as service:
        asking = asyncio.create_task(service.http.post(CHAT, json=BODY))
        run = await started(service)
        tell(run, events[:4])
        await page.goto(f"{service.url}/#{run.trace.id}")
        await expect(page.locator("#scope")).to_have_text("Whole search: 1 finished of 1 node")
        await expect(page.locator("#stopped")).to_contain_text("under way")
        tell(run, events[4:-1])
        await expect(page.locator("#scope")).to_have_text("Whole search: 6 finished of 6 nodes")
        tell(run, events[-1:])
        await expect(page.locator("#stopped")).to_contain_text("the candidates agreed enough")
        run.cancel()
        await asking


def tell(run: ScriptedRun, events: Sequence[Event]) -> None:
    for event in events:
        run.trace.append(event.kind, **event.data)


async def test_a_search_that_was_lost_says_so(page: Page) -> None:
    """One whose service has died is shown as far as it came, with the reason."""
    shelf = Shelf()
    shelf.silent_seconds = 10_000
    shelf.events["dead"] = synthetic_traces.planned(closed=False)
    async with watched(page, stage=Stage(traces=shelf)) as service:
        await page.goto(f"{service.url}/#dead")
        await expect(page.locator("#stopped")).to_contain_text("has died")
        await expect(page.get_by_role("button", name="End now")).to_be_hidden()


async def test_before_the_first_request_the_page_says_how_to_ask(page: Page) -> None:
    """An empty service shows a command, and the first request takes its place."""
    shelf = Shelf()
    async with watched(page, stage=Stage(traces=shelf)) as service:
        await page.goto(service.url)
        await expect(page.locator("#how")).to_contain_text(f"longthink ask --url {service.url}")
        shelf.silent_seconds = 60
        shelf.events["plan"] = synthetic_traces.planned()
        await expect(page.locator("#answer")).to_have_text("29.5")
        await expect(page.locator("#how")).to_be_hidden()


async def test_a_page_of_another_site_cannot_end_a_search(service: Service, page: Page) -> None:
    """The browser asks whether it may send the DELETE, hears no yes, and doesn't."""
    asking = asyncio.create_task(service.http.post(CHAT, json=BODY))
    run = await started(service)
    async with serving() as other:
        # What the browser writes of it to this page's console is no fault.
        elsewhere = await page.context.new_page()
        await elsewhere.goto(f"{other.url}/health/live")
        said = await elsewhere.evaluate(
            "async url => { try { await fetch(url, { method: 'DELETE' }); return 'sent' } "
            "catch (error) { return String(error) } }",
            f"{service.url}/v1/traces/{run.trace.id}",
        )
    assert "Failed to fetch" in said
    assert not run.cancelled.is_set()
    run.cancel()
    await asking
