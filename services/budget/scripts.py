"""The ledger's Lua, one script each, and how vectors and replies of it are written and read."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias, get_args

from planner.domain import Budget, Cost
from planner.ports import Account

ScriptName: TypeAlias = Literal["open", "hold", "commit", "renew", "resize", "close", "account"]
NAMES: tuple[ScriptName, ...] = get_args(ScriptName)

Word: TypeAlias = bytes | str

OK, UNKNOWN, CONFLICT, REFUSED = range(4)
"""The codes that open a reply, as in common.lua."""

LARGEST = 2**48
"""The largest integer of a limit or cost: 32 of them still add up exactly in Lua's doubles."""


@cache
def source(name: ScriptName) -> str:
    """The text of a script, with what all of them have in common before it."""
    folder = files("services.budget") / "lua"
    return (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()


def cost_vector(cost: Cost) -> str:
    """A cost as the scripts read it. Raises ValueError where it isn't of counts from 0."""
    return _vector(astuple(cost))


def limits_vector(limits: Budget) -> str:
    """The limits as the scripts read them. What the prompt takes is counted, never limited."""
    return _vector(
        (
            None,
            None,
            limits.completion_tokens,
            limits.reward_tokens,
            limits.candidates,
            limits.micro_usd,
        )
    )


def read_vector(vector: Word) -> tuple[int | None, ...]:
    """The six numbers of a vector, None for no limit."""
    return tuple(None if word == "-" else int(word) for word in text(vector).split(","))


def read_cost(vector: Word) -> Cost:
    """A vector in which every number is there, as a cost."""
    return Cost(*(number or 0 for number in read_vector(vector)))


def read_limits(vector: Word, deadline: Word) -> Budget:
    """A vector of limits, and the deadline in seconds or an empty word."""
    _, _, completion_tokens, reward_tokens, candidates, micro_usd = read_vector(vector)
    return Budget(
        completion_tokens=completion_tokens,
        reward_tokens=reward_tokens,
        candidates=candidates,
        micro_usd=micro_usd,
        deadline_seconds=float(deadline) if deadline else None,
    )


def text(word: Word) -> str:
    """A word of a reply, whether or not the client decodes them."""
    return word.decode() if isinstance(word, bytes) else word


@dataclass(frozen=True, slots=True)
class Reply:
    """The account, and what the script had to say besides."""

    account: Account
    answer: str

    @classmethod
    def read(cls, words: list[Word]) -> Reply:
        """From the reply of a script that went through, without its code."""
        limits, spent, held, deadline, answer = words
        return cls(
            Account(
                limits=read_limits(limits, deadline),
                spent=read_cost(spent),
                held=read_cost(held),
            ),
            text(answer),
        )


def _vector(numbers: tuple[int | None, ...]) -> str:
    for number in numbers:
        if number is not None and not 0 <= number <= LARGEST:
            raise ValueError(f"A limit or cost must be an integer from 0 to 2^48, not {number}.")
    return ",".join("-" if number is None else str(int(number)) for number in numbers)
