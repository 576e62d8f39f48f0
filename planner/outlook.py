"""What more compute is likely to be worth: the gain in confidence to expect of each way to go on.

A prior says what is to be expected where nothing is known; what past requests found, of the same
model and in the same situation, counts the more the more of them there are. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

from planner.calibration import Calibration, calibration_data, read_calibration
from planner.domain import Outcome

Action: TypeAlias = Literal["widen", "tree", "decompose", "judge"]
Situation: TypeAlias = Literal["agree", "lean", "split", "lost", "silent"]
"""What a few samples have shown.

They `agree` and score well, most `lean` to one answer, they are `split` between some, they are
`lost`, as no two agree, or what some of them say scores badly, or they are `silent`: they give no
answer to vote on.
"""

PRIOR: Mapping[Situation, Mapping[Action, float]] = {
    "agree": {"widen": 0.001, "tree": 0.001, "decompose": 0.0, "judge": 0.0},
    "lean": {"widen": 0.2, "tree": 0.18, "decompose": 0.02, "judge": 0.0},
    "split": {"widen": 0.25, "tree": 0.27, "decompose": 0.1, "judge": 0.0},
    "lost": {"widen": 0.12, "tree": 0.14, "decompose": 0.3, "judge": 0.0},
    "silent": {"widen": 0.0, "tree": 0.0, "decompose": 0.0, "judge": 0.2},
}
"""The gain in accuracy to expect of ten more samples' tokens.

Where samples agree there is little to gain; where all are lost, more of the same rarely helps, but
a question taken apart may.
"""

_TRUST = 20.0
"""The prior counts as much as so many requests."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What became of one decision: what it gained, in [0, 1], and for how many tokens.

    The gain is how much likelier the answer is to be right than the one before it, as things look
    now; none where the answer is the same. That an answer looks less likely than it did is no loss:
    it was no likelier before.
    """

    situation: Situation
    action: Action
    gain: float
    tokens: int

    @property
    def name(self) -> str:
        """The situation and the action, by which lessons are kept."""
        return f"{self.situation}/{self.action}"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known from past requests.

    How often each action was taken in each situation, and the mean gain, by `Lesson.name`; and how
    right answers of each strategy are at each confidence.
    """

    seen: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    calibration: Calibration | None = None

    def gain(self, situation: Situation, action: Action) -> float:
        """The gain to expect, between the prior and what was seen."""
        count, mean = self.seen.get(f"{situation}/{action}", (0.0, 0.0))
        prior = PRIOR[situation][action]
        return (_TRUST * prior + count * mean) / (_TRUST + count)

    def belief(self, strategy: str, selector: str, outcome: Outcome) -> float:
        """How likely the answer of an outcome is right, as far as that is known."""
        known = None
        if self.calibration is not None and outcome.answer is not None:
            known = self.calibration.apply(
                strategy, outcome.selector or selector, outcome.confidence, outcome.finished
            )
        return outcome.confidence if known is None else known

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        known = self.calibration
        return {
            "seen": {name: list(seen) for name, seen in self.seen.items()},
            "calibration": None if known is None else calibration_data(known),
        }

    @classmethod
    def read(cls, data: Mapping[str, Any] | None) -> Self:
        """What `data` wrote; nothing known, where there is nothing to read."""
        if data is None:
            return cls()
        known = data["calibration"]
        return cls(
            {name: (float(count), float(mean)) for name, (count, mean) in data["seen"].items()},
            None if known is None else read_calibration(known),
        )
