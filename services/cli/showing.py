"""What the demonstration asks, and what it says of the replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from planner.answers import canonical
from services.cli import asking
from services.cli.asking import Asked
from services.evaluation.questions import Question, synthetic

_TOKENS_PER_CANDIDATE = 250
_SECONDS = 60.0
_USD = 0.01
_COMPOUND_SEED = 7
"""Which compound question."""


async def show(url: str, candidates: int, seed: int, console: Console) -> bool:
    """Ask two questions once, then with a search. Returns whether there were answers."""
    hard = synthetic("hard", 1, seed)[0]
    voted = Asked(
        hard.text,
        strategy="majority",
        selector="weighted",
        stop="none",
        seed=seed,
        temperature=0.8,
        candidates=candidates,
        completion_tokens=candidates * _TOKENS_PER_CANDIDATE,
        usd=_USD,
        deadline_seconds=_SECONDS,
    )
    several = f"Now with {candidates} candidates and a budget:"
    answered = await _ask(url, hard, voted, several, console)

    console.rule()
    compound = synthetic("compound", 1, _COMPOUND_SEED)[0]
    decided = Asked(
        compound.text,
        effort="high",
        seed=seed,
        temperature=0.8,
        usd=_USD,
        deadline_seconds=_SECONDS,
    )
    own = "Now with reasoning_effort=high, which decides by itself what to do:"
    return await _ask(url, compound, decided, own, console) and answered


async def _ask(url: str, question: Question, searched: Asked, how: str, console: Console) -> bool:
    """Ask a question once, then as `searched` says. Returns whether that has an answer."""
    console.print(Panel(Text(question.text), title="Question", title_align="left"))
    single = Asked(question.text, strategy="single", seed=searched.seed, temperature=0.8)
    once = (await asking.reply(url, single))["longthink"]
    console.print("\nAsked once:", _verdict(once, question.answer))

    console.print(f"\n{how}\n", highlight=False)
    ours = (await asking.show(url, searched, console)).ours
    console.print(
        f"\nWith {ours['spent']['candidates']} candidates:", _verdict(ours, question.answer), "\n"
    )
    return ours["answer"] is not None


def _verdict(ours: Mapping[str, Any], gold: str) -> Text:
    """The answer, and whether it is the exact one, which only the demonstration knows."""
    answer = ours["answer"]
    if answer is None:
        return Text(f"no answer; {gold} is right.", style="red")
    if canonical(answer) == canonical(gold):
        return Text(f"{answer}, which is right.", style="green")
    return Text(f"{answer}, which is wrong: {gold} is right.", style="red")
