"""Plans as a model might really write them: cut, doubled, moved, of no steps and of hundreds."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any


def spoilt(good: Mapping[str, Any], dice: random.Random) -> str:
    """A plan as a model might spoil it: some of its text cut, doubled, moved, or changed."""
    steps: list[dict[str, Any]] = [
        {
            "id": dice.choice(["a", "b", "c", "$a", "", 3, None, "a b", "é"]),
            "question": dice.choice(["What is $a?", "$b and ${c}", "", "  ", None, 7, "x" * 9000]),
            "needs": dice.choice([["a"], ["b", "c"], "a", None, [1, None, {}], [["a"]], []]),
        }
        for _ in range(dice.choice([0, 1, 2, 3, 5, 8, 40, 500]))
    ]
    text = json.dumps(dice.choice([{"steps": steps}, steps, {"plan": {"steps": steps}}, good]))
    for _ in range(dice.randrange(4)):
        here, there = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        text = dice.choice(
            [
                text[:here],
                text[here:],
                text[:here] + text[there:],
                text[:there] + text[here:],
                text[:here] + dice.choice('{}[]",:$\\\n\x00é') + text[here:],
                f"Well, {{{text}}} is my plan.",
            ]
        )
    return text
