"""What a person reads while a search thinks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.domain import Budget
from planner.effort import Effort
from services.api.progress import Lines, Typing
from services.trace import Event, Kind

EFFORT = Effort("majority", "weighted", "certain", 16, Budget())


def event(kind: Kind, **data: Any) -> Event:
    return Event(0, 0.0, kind, data)


def standing(**data: Any) -> Event:
    known: dict[str, Any] = {
        "finished": 7,
        "planned": 16,
        "running": 9,
        "answer": "1/2",
        "confidence": 0.7,
        "votes": [{"answer": "1/2", "count": 5}, {"answer": "1/3", "count": 2}],
        "spent": {"completion_tokens": 1204},
    }
    return event(Kind.STANDING, **{**known, **data})


def line_after(*events: Event, effort: Effort = EFFORT) -> str:
    lines = Lines(effort)
    for each in events:
        lines.see(each)
    return lines.take()


def test_a_standing_is_told_in_one_line() -> None:
    """Candidates, the leader and its votes, and what was spent of how much."""
    effort = replace(EFFORT, budget=Budget(completion_tokens=4000))
    assert line_after(standing(), effort=effort) == (
        "7 of 16 candidates · leading 1/2 with 5 of 7 votes · 1,204 tokens of 4,000 spent\n"
    )


def test_without_a_limit_only_the_spending_is_told() -> None:
    """An unlimited budget isn't mentioned."""
    assert line_after(standing()).endswith("· 1,204 tokens spent\n")


def test_nobody_leads_before_there_is_an_answer() -> None:
    """Until a candidate has an answer there is no leader."""
    assert line_after(standing(answer=None, votes=[])) == (
        "7 of 16 candidates · 1,204 tokens spent\n"
    )


def test_one_is_not_many() -> None:
    """The words agree with the numbers."""
    votes = [{"answer": "2", "count": 1}]
    line = line_after(standing(finished=1, planned=1, answer="2", votes=votes))
    assert line == "1 of 1 candidate · leading 2 with 1 of 1 vote · 1,204 tokens spent\n"


def test_failures_are_told() -> None:
    """Candidates that failed are counted; those that weren't graded or were cancelled aren't."""
    told = [
        event(Kind.TOLD, id="expand:0", status="failed"),
        event(Kind.TOLD, id="expand:1", status="done"),
        event(Kind.TOLD, id="grade:1", status="failed"),
        event(Kind.TOLD, id="expand:2", status="cancelled"),
        event(Kind.TOLD, id="expand:3", status="failed"),
    ]
    assert "· 2 failed ·" in line_after(*told, standing())


def test_a_long_answer_stays_on_its_line() -> None:
    """An answer of many lines, or a very long one, doesn't break the progress."""
    line = line_after(standing(answer="a\n" * 100, votes=[]))
    assert line.count("\n") == 1
    assert "…" in line
    assert len(line) < 150


def test_the_start_is_told_once() -> None:
    """The first tasks asked for are news; later ones aren't, and neither are other events."""
    lines = Lines(EFFORT)
    assert not lines.news
    lines.see(event(Kind.OPENED))
    assert not lines.news
    lines.see(event(Kind.ASKED, room=256, tasks=["expand:0"]))
    assert lines.take() == "sampling 1 candidate\n"
    lines.see(event(Kind.ASKED, room=256, tasks=["grade:0"]))
    lines.see(event(Kind.CANCELLED, calls=["x"]))
    assert not lines.news


def test_the_same_standing_is_not_told_twice() -> None:
    """Only a line that differs is news."""
    lines = Lines(EFFORT)
    lines.see(standing())
    lines.take()
    lines.see(standing())
    assert not lines.news


def tokens(call: str, text: str, **more: int) -> Event:
    return event(Kind.TOKENS, id=call, text=text, **more)


def test_pieces_are_shown_once_and_joined() -> None:
    """What came since the last look is one piece."""
    typing = Typing()
    typing.see(tokens("a", "one "))
    typing.see(tokens("a", "two "))
    assert typing.take() == "one two "
    assert typing.take() == ""
    typing.see(tokens("b", "three"))
    assert typing.take() == "three"
    assert typing.finish("one two three four") == " four"


@pytest.mark.parametrize("after", [0, 4])
def test_a_call_that_starts_further_back_catches_up(after: int) -> None:
    """Text that is written again is not shown again."""
    whole = "one two three"
    typing = Typing()
    typing.see(tokens("a", "one two "))
    assert typing.take() == "one two "
    typing.see(tokens("b", whole[after:6], after=after))
    assert typing.take() == ""
    typing.see(tokens("b", whole[6:], after=after))
    assert typing.take() == "three"


def test_a_text_that_turned_out_differently_is_not_shown() -> None:
    """What was shown is never continued by something else."""
    typing = Typing()
    typing.see(tokens("a", "one "))
    typing.take()
    typing.see(tokens("b", "two three four", after=0))
    assert typing.take() == ""
    assert typing.finish("two three four") is None
