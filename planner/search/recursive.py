"""Recursive self-aggregation (Venkatraman et al., arXiv 2509.26626).

A population of P answers. For each answer of the next round the model is shown K of the last
round's, drawn at random, and writes a better one from what is right in them. The answers of the
last round vote; until those are there, all do.
"""

from __future__ import annotations

import random

from planner.domain import Candidate, Expand, Stopped
from planner.search.base import Setup
from planner.search.correcting import Correcting

ROUNDS = 4
SHOWN = 4


class Recursive(Correcting):
    """Four rounds of N / 4 answers each, every one written from four of the round before.

    Fewer than four candidates make as many rounds of one; what N / 4 leaves over is not written.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._round = 1
        self._rounds = min(ROUNDS, setup.candidates)
        self._population = setup.candidates // self._rounds
        self._level: list[Candidate] = []
        self._awaited = self._population
        for place in range(self._population):
            self._write(Expand((place,)))

    @property
    def _over(self) -> bool:
        # The last round votes once all of it is there, not once there are enough answers.
        return False

    def _verdict(self) -> Stopped | None:
        # What earlier rounds say is not what the last one will, so no rule can end it.
        return None

    def _remarks(self) -> tuple[str, ...]:
        if len(self.setup.stop.rules) > 1:
            return (
                *super()._remarks(),
                "No stopping rule ends this strategy before its last round.",
            )
        return super()._remarks()

    def _grown(self, node: Candidate) -> None:
        self._level.append(node)
        self._end_round()

    def _lost(self, task: Expand) -> None:
        self._end_round()

    def _end_round(self) -> None:
        """Once all of a round have been heard of, starts the next, or lets the last one vote."""
        self._awaited -= 1
        if self._awaited or not self._level:
            return
        level = sorted(self._level, key=lambda node: node.path)
        if self._round == self._rounds:
            self._tally = self._tally.only(level)
            return
        self._level = []
        self._awaited = self._population
        dice = random.Random(f"{self.setup.query.seed}/recursive/{self._round}")
        for place in range(self._population):
            self._correct((place, self._round), dice.sample(level, min(SHOWN, len(level))))
        self._round += 1
