"""`longthink trace` against a real HTTP server with traces that were written by hand."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console

from services.cli.picture import Picture
from services.cli.tracing import show
from services.trace import Event
from tests.contract import synthetic_traces

Run = Callable[..., tuple[int, str, str]]


def told(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events as the service tells them."""
    return [
        {"seq": one.seq, "seconds": one.seconds, "kind": str(one.kind), "data": one.data}
        for one in events
    ]


def test_a_plan_is_drawn_with_what_lies_below_each_step(fake_service: Any, longthink: Run) -> None:
    """Each step has its answer, its needs, its candidates or tree; then votes, budget, reason."""
    fake_service.told = {"events": told(synthetic_traces.planned())}
    code, out, err = longthink("trace", "abc", "--url", fake_service.url)
    assert (code, err) == (0, "")
    assert "decompose: The question asks for several things, one after another." in out
    assert "plan: A step that needs one which doesn't exist was repaired." in out
    assert re.search(r"● left  59 0\.\d\d  \d+ of 1,000 tokens  needs eggs, eaten", out)
    assert "How many of 80 eggs are left when 21 are eaten?" in out
    assert re.search(r"1\.3\.0 ◦ 0\.\d\d", out)
    assert re.search(r"1\.3\.0\.0\.0 • (59|60) 0\.\d\d", out)
    assert "· failed" in out
    assert re.search(r"29\.5 .* 9 +score 7\.40", out)
    assert "2,172 of 6,000" in out
    assert "confident: the candidates agreed enough" in out
    assert "Two formulas were found to be the same." in out


def test_a_large_tree_is_drawn_in_part(fake_service: Any, longthink: Run) -> None:
    """Of two thousand nodes some are drawn, and the others counted."""
    fake_service.told = {"events": told(synthetic_traces.large(2000))}
    _, out, _ = longthink("trace", "abc", "--url", fake_service.url)
    assert "and 1800 more" in out
    assert len(out.splitlines()) < 260


def test_candidates_are_drawn_without_a_plan(fake_service: Any, longthink: Run) -> None:
    """Independent samples are cells, and what a model wrote is no markup of the terminal's."""
    fake_service.told = {"events": told(synthetic_traces.samples(8))}
    _, out, _ = longthink("trace", "abc", "--url", fake_service.url)
    assert "• 42" in out
    assert "<script>" in out


def test_json_is_the_trace(fake_service: Any, longthink: Run) -> None:
    """--format json prints what the service has of the trace."""
    _, out, _ = longthink("trace", "abc", "--url", fake_service.url, "--format", "json")
    assert json.loads(out)["id"] == "abc"
    assert json.loads(out)["events"][0]["kind"] == "opened"


def test_a_search_under_way_is_drawn_as_far_as_it_is(
    fake_service: Any, longthink: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is so far, and how to stay with it; the address comes from the environment."""
    fake_service.told = {"events": told(synthetic_traces.planned(closed=False))}
    monkeypatch.setenv("LONGTHINK_URL", fake_service.url)
    code, out, _ = longthink("trace", "abc")
    assert code == 0
    assert "◐ money" in out
    assert "· running" in out
    assert "abc is under way, by plan; --follow stays with it." in out


@pytest.mark.parametrize("terminal", [True, False])
def test_a_search_is_followed_to_its_end(fake_service: Any, terminal: bool) -> None:
    """On a terminal it is drawn while it goes on; elsewhere once, when it is over."""
    fake_service.told = {"events": told(synthetic_traces.planned())}
    screen = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=120)
    asyncio.run(show(fake_service.url, "abc", screen, follow=True))
    drawn = screen.file.getvalue()  # type: ignore[attr-defined]
    assert drawn.count("Question") == 1
    assert (drawn.count("Plan") > 1) == terminal
    assert "Confidence  0.93" in drawn


def test_a_search_that_was_lost_is_an_error(fake_service: Any, longthink: Run) -> None:
    """Where the service gives a search up, following it ends with its reason."""
    fake_service.lost = "The search failed."
    code, _, err = longthink("trace", "abc", "--follow", "--url", fake_service.url)
    assert code == 1
    assert err == "longthink: The search failed.\n"


def test_an_unknown_trace_is_told(fake_service: Any, longthink: Run) -> None:
    """What the service says of it is the message."""
    fake_service.traces = False
    code, out, err = longthink("trace", "abc", "--url", fake_service.url)
    assert (code, out) == (1, "")
    assert "There is no such trace." in err


def test_a_line_separator_of_a_model_ends_no_event(fake_service: Any, longthink: Run) -> None:
    """What only some take for the end of a line is a letter like others."""
    events = told(synthetic_traces.samples(2))
    events[2]["data"]["candidate"]["text"] = "one\u2028two\x85three\n#### 7"
    fake_service.told = {"events": events}
    code, out, _ = longthink("trace", "abc", "--follow", "--url", fake_service.url)
    assert code == 0
    assert "• 7" in out


def test_a_plan_made_again_takes_the_place_of_the_first() -> None:
    """A step's own plan stands below it, and a new plan for the same replaces the old."""
    picture, screen = Picture(), Console(file=io.StringIO(), width=100)
    names = [((), ["a", "b"]), ((1,), ["inner", "last"]), ((1,), ["other"])]
    for seq, (root, ids) in enumerate(names):
        steps = [
            {"id": name, "question": "?", "needs": [], "path": [*root, place]}
            for place, name in enumerate(ids)
        ]
        data = {"path": list(root), "steps": steps, "notes": []}
        picture.see({"seq": seq, "seconds": 0.0, "kind": "planned", "data": data})
    screen.print(picture)
    drawn = screen.file.getvalue()  # type: ignore[attr-defined]
    assert re.findall(r"○ (\S+)", drawn) == ["a", "b", "b.other"]


def test_an_event_taken_twice_changes_nothing() -> None:
    """The picture is the same, however often it is told."""
    events = told(synthetic_traces.planned())
    drawings = []
    for times in (1, 2):
        picture, screen = Picture(), Console(file=io.StringIO(), width=100)
        for event in events * times:
            picture.see(event)
        screen.print(picture)
        drawings.append(screen.file.getvalue())  # type: ignore[attr-defined]
    assert drawings[0] == drawings[1]
