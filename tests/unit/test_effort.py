"""One effort comes of the preset and what the request says explicitly, which wins."""

from __future__ import annotations

import pytest

from planner.domain import Budget
from planner.effort import PRESETS, Options, settle
from planner.errors import InvalidOption


def test_preset_fills_in_what_is_left_open() -> None:
    """A request that says nothing gets the default preset; one that names a word, that one."""
    assert settle(Options()).candidates == PRESETS["medium"].candidates
    high = settle(Options(effort="high"))
    assert (high.strategy, high.candidates) == ("auto", PRESETS["high"].candidates)


def test_more_effort_is_never_fewer_candidates() -> None:
    """From none to max the width grows, from one pass to over a hundred."""
    widths = [settle(Options(effort=word)).candidates for word in PRESETS]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1] > 100) == (1, True)


def test_named_strategy_gets_no_rule_it_did_not_ask_for() -> None:
    """Only `certain`, which can't change an answer."""
    effort = settle(Options(strategy="best_of_n"))
    assert (effort.selector, effort.stop) == ("best", "certain")
    explicit = settle(Options(strategy="majority", selector="weighted", stop="beta:0.9"))
    assert (explicit.selector, explicit.stop) == ("weighted", "beta:0.9")


def test_what_decides_by_itself_keeps_the_presets_rule() -> None:
    """`auto` is the same whether it is named or meant."""
    assert settle(Options(strategy="auto")) == settle(Options())


def test_budget_of_candidates_is_the_width() -> None:
    """Asked for 64, it takes up to 64, whatever the preset says; asked for 2, no more than 2."""
    for count in (2, 64):
        assert settle(Options(budget=Budget(candidates=count))).candidates == count


def test_answers_asked_for_widen_the_search() -> None:
    """More distinct answers than candidates can't be shown."""
    assert settle(Options(effort="minimal", answers=9)).candidates == 9


def test_several_answers_are_drawn_to_the_end() -> None:
    """A rule that stops at a clear lead would leave no second answer; one asked for still holds."""
    assert settle(Options(answers=3)).stop == "none"
    assert settle(Options(strategy="beam", answers=3)).stop == "none"
    assert settle(Options(answers=3, stop="beta:0.9")).stop == "beta:0.9"
    assert settle(Options(answers=1)).stop == PRESETS["medium"].stop


def test_unknown_word_is_refused_by_name() -> None:
    """The error names the field and what it may be."""
    with pytest.raises(InvalidOption, match="none, minimal, low") as caught:
        settle(Options(effort="extreme"))
    assert caught.value.param == "reasoning_effort"
