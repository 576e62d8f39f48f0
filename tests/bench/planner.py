"""What the planner itself takes: its own CPU time a candidate, for each strategy of the registry.

Run it as a script: `python -m tests.bench.planner [--candidates 16,256,4096] [--strategies ...]`.
Every strategy is driven in the driver's rhythm, with room for all it may have in flight: it asks,
then hears one result at a time in random order, says what is surplus and asks again. The results
are made up, in the same way for all: a step has eight tokens, from the third on every other one is
the last, the answer is one of five, and scores are drawn from Beta(2, 2). What is timed is `ask`,
`tell`, `surplus` and `done`, and `best()` at every hundredth result.

The aim is a flat or logarithmic cost, under 0.2 ms a candidate.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from time import process_time

from rich.console import Console
from rich.table import Table

from planner.domain import Candidate, Expand, Finish, Grade, Message, Query, Result, Task, Verify
from planner.search import STRATEGIES, Search, Setup, search
from planner.selection import selector
from planner.stopping import parse

SIZES = (16, 256, 4096)
AIM_MS = 0.2
ROOM = 256
"""What one request may have in flight by default, see `services.driver.Manner`."""
STEP_TOKENS = tuple(range(8))
ANSWERS = ("12", "15", "96", "3/4", "x+1")
LOOKS_EVERY = 100
ENOUGH = 1024
"""Candidates to measure."""
REPEATS = 3
"""The least of so many measurements counts: what else the machine does only adds to it."""


@dataclass
class Workers:
    """Ends tasks, in random order, with made-up results."""

    dice: random.Random
    flying: list[Task] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    sampled: int = 0

    def end_one(self) -> tuple[Task, Result]:
        place = self.dice.randrange(len(self.flying))
        self.flying[place], self.flying[-1] = self.flying[-1], self.flying[place]
        task = self.flying.pop()
        if task.id in self.cancelled:
            return task, Result(task.id, "cancelled")
        match task:
            case Expand():
                self.sampled += 1
                return task, Result(task.id, "done", self._candidate(task))
            case Grade():
                score = self.dice.betavariate(2.0, 2.0)
                return task, Result(task.id, "done", task.candidate.graded((score,), score))
            case Verify():
                return task, Result(task.id, "done")

    def _candidate(self, task: Expand) -> Candidate:
        before = task.parent or Candidate(task.path)
        text = f"{before.text}{self.dice.randrange(90)} + 3 = 12\n"
        tokens = before.token_ids + STEP_TOKENS
        whole = len(task.path) > 2 and self.dice.random() < 0.5
        if not whole and task.until == "step":
            return Candidate(task.path, text, tokens, Finish.STEP, -0.5)
        text += f"#### {self.dice.choice(ANSWERS)}"
        return Candidate(task.path, text, tokens, Finish.STOP, -0.5)


def drive(under: Search, workers: Workers) -> float:
    """The CPU seconds that a whole search takes of the planner."""
    began = process_time()
    workers.flying += under.ask(ROOM)
    seconds = process_time() - began
    for told in count(1):
        task, result = workers.end_one()
        room = ROOM - len(workers.flying)
        began = process_time()
        under.tell(task, result)
        surplus = under.surplus()
        if told % LOOKS_EVERY == 0:
            under.best()
        done = under.done
        asked = () if done else under.ask(room)
        seconds += process_time() - began
        if done:
            return seconds
        workers.cancelled.update(task.id for task in surplus)
        workers.flying += asked
    raise AssertionError("never here")


def milliseconds(strategy: str, candidates: int, seed: int = 0) -> tuple[float, float]:
    """CPU time a candidate, and the samples for each, its steps counted one by one.

    Searches of few candidates are repeated, so that there is something to measure.
    """
    seconds, allowed, sampled, again = 0.0, 0, 0, 0
    while allowed < ENOUGH:
        query = Query((Message("user", "How many?"),), seed=seed + again)
        setup = Setup(query, candidates, selector("weighted"), parse("none"), True, verifies=True)
        under, workers = search(strategy, setup), Workers(random.Random(seed + again))
        seconds += drive(under, workers)
        allowed += under.progress()[1]
        sampled += workers.sampled
        again += 1
    return seconds * 1e3 / allowed, sampled / allowed


def report(strategies: Sequence[str], sizes: Sequence[int]) -> Table:
    """A row a strategy, a column a size."""
    title = f"CPU ms a candidate, aim {AIM_MS} (and samples a candidate)"
    table = Table("strategy", *(f"{size} candidates" for size in sizes), title=title)
    for strategy in strategies:
        cells = []
        for size in sizes:
            taken, sampled = min(milliseconds(strategy, size) for _ in range(REPEATS))
            style = "red" if taken >= AIM_MS else "green"
            cells.append(f"[{style}]{taken:.3f}[/] ({sampled:.1f})")
        table.add_row(strategy, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--candidates", default=",".join(map(str, SIZES)), metavar="N,N")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), metavar="NAME,NAME")
    args = parser.parse_args()
    sizes = [int(size) for size in args.candidates.split(",")]
    Console().print(report(args.strategies.split(","), sizes))


if __name__ == "__main__":
    main()
