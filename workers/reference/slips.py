"""Wrong attempts at a query: the slips that solvers make, carried on to a wrong answer.

A wrong attempt stays plausible: after its first wrong step it goes on calculating rightly with
what it then believes. It ends in an answer that is wrong.
"""

import random
from collections.abc import Sequence

from workers.reference.synthetic import ANSWER_MARK, Query, calculate, numbers, parse_step

_SLIPS = ("digits", "operand", "operator", "skipped")
_SLIP_SHARES = (0.7, 0.12, 0.1, 0.08)


def wrong_attempt(query: Query, rng: random.Random) -> tuple[str, ...]:
    """Steps and answer line of an attempt with one to three slips, its answer always wrong."""
    while True:
        slips = rng.choice((1, 1, 1, 2, 3))
        places = set(rng.sample(range(len(query.steps)), min(slips, len(query.steps))))
        steps = _attempt(query, places, rng)
        if steps and not steps[-1].endswith(f" {query.answer}"):
            return (*steps, ANSWER_MARK + steps[-1].rpartition(" ")[2])


def _attempt(query: Query, places: set[int], rng: random.Random) -> list[str]:
    """The solution with a slip at each of the places, later steps following from it."""
    believed: dict[int, int] = {}
    told = numbers(query.question)
    steps: list[str] = []
    for place, step in enumerate(query.steps):
        parsed = parse_step(step)
        if parsed is None:
            raise ValueError(f"Not a step: {step}")
        left, operator, right, result = parsed
        left, right = believed.get(left, left), believed.get(right, right)
        slip = rng.choices(_SLIPS, _SLIP_SHARES)[0] if place in places else ""
        if slip == "skipped":
            continue
        if slip == "operand":
            left, right = _swapped(left, right, rng.choice(told), rng)
        elif slip == "operator":
            operator = rng.choice("+-*/".replace(operator, ""))
        if operator in "-/":
            left, right = max(left, right), max(1, min(left, right))
        value = calculate(left, operator, right)
        if slip == "digits":
            value = misread_digits(value, rng)
        steps.append(f"{left} {operator} {right} = {value}")
        believed[result] = value
    return steps


def _swapped(left: int, right: int, other: int, rng: random.Random) -> tuple[int, int]:
    """The two sides with another number of the question in the place of one."""
    return (other, right) if rng.random() < 0.3 else (left, other)


def misread_digits(value: int, rng: random.Random) -> int:
    """A value near by: a carry forgotten, a digit off, two digits exchanged."""
    digits = list(str(value))
    kind = rng.random()
    if kind < 0.55:
        return max(1, value + rng.choice((1, -1)) * int(10 ** rng.randrange(len(digits))))
    place = rng.randrange(len(digits))
    if kind < 0.9 or len(digits) == 1:
        digits[place] = rng.choice("123456789")
    else:
        place = max(1, place)
        digits[place - 1], digits[place] = digits[place], digits[place - 1]
    return max(1, int("".join(digits)))


def mixed_attempts(query: Query, rng: random.Random, count: int, right: int) -> Sequence[str]:
    """`count` attempts as text, `right` of them right, in any order."""
    texts = [query.solution] * right
    texts += ["\n".join(wrong_attempt(query, rng)) for _ in range(count - right)]
    rng.shuffle(texts)
    return texts
