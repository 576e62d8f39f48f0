"""Single steps of arithmetic, right and wrong, for the PRM to check.

Nearly all that the reasoner gets wrong on hard queries is arithmetic, so this is what the PRM has
to know better. A drill is short, and so teaches more a token than a whole solution does.
"""

import random

from workers.reference import STEP_TAG
from workers.reference.slips import misread_digits
from workers.reference.synthetic import LIMIT, calculate

QUESTION = "Which of these are right?"
_OPERATORS, _OPERATOR_SHARES = "+-*/", (0.28, 0.36, 0.24, 0.12)
_WRONG = 0.5


def drill(rng: random.Random) -> tuple[str, int]:
    """A step, and how many of its characters, the tag after it included, can still become right.

    All numbers are from 1 to LIMIT. The result is right in about half of the drills; where it is
    wrong, it is near the right one.
    """
    left, operator, right = _sides(rng)
    result = calculate(left, operator, right)
    start = f"{left} {operator} {right} = "
    if rng.random() >= _WRONG:
        return f"{start}{result}", len(f"{start}{result}{STEP_TAG}")
    told = result
    while told == result:
        told = misread_digits(result, rng)
    same = 0
    while f"{told}"[same : same + 1] == f"{result}"[same : same + 1]:
        same += 1
    return f"{start}{told}", len(start) + same


def _sides(rng: random.Random) -> tuple[int, str, int]:
    """Two numbers and an operator whose result is from 1 to LIMIT and exact."""
    while True:
        operator = rng.choices(_OPERATORS, _OPERATOR_SHARES)[0]
        large = rng.randint(2, rng.choice((99, 999, 999, 2999)))
        small = rng.randint(2, rng.choice((9, 20) if operator in "*/" else (99, 299, 999)))
        if operator == "/":
            large *= small
        elif operator != "-" and rng.random() < 0.5:
            large, small = small, large
        if max(large, small) <= LIMIT and 0 < calculate(large, operator, small) <= LIMIT:
            return large, operator, small
