"""Answers that aren't numbers or formulas, each brought to one form of all the ways to write it.

Choices of a multiple-choice question, JSON values, and code. All of it takes any text in time
linear in its length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any, NoReturn

_BARE = re.compile(r"(?:(?:option|choice)\s+)?(?:\(([a-j])\)|([a-j])\)?)[.:]?", re.IGNORECASE)
_LABELLED = re.compile(r"(?:\(([A-J])\)(?:[\s:.]+\S|\d)|([A-J])\)\s+\S).*", re.DOTALL)
_NAMED = re.compile(
    r"(?:(?:^|\b(?:is|be|choose|pick|select) )(?:the )?(?:[Oo]ption|[Cc]hoice):? "
    r"|\b(?:[Oo]ption|[Cc]hoice) is:? )[*_]*\(?([A-J])\)?[*_]*\.?$"
)
_EMPHASIS = "*_` \t\n"


def choice(text: str) -> str | None:
    """The letter that names a choice, in lower case: `B`, `(b)`, `B.`, `Option B`, `(B) 42`.

    A label before more text counts only where a parenthesis closes it: "B. Russell" is a name.
    """
    found = _BARE.fullmatch(text.strip(_EMPHASIS)) or _LABELLED.fullmatch(text.strip(_EMPHASIS))
    return (found[1] or found[2]).lower() if found else None


def choice_named(line: str) -> str | None:
    """The letter that a line comes to that nothing else marks as an answer.

    `B`, `(B)`, `**B.**`, `Option B`, `The correct choice is (D).`
    """
    line = line.strip(_EMPHASIS)
    if len(line) <= 4 and line.upper() == line and _BARE.fullmatch(line):
        return line
    found = _NAMED.search(line)
    return found[1] if found else None


def json_value(
    text: str, number: Callable[[str], str] = str, *, scalars: bool = False
) -> str | None:
    """A JSON object or array with its keys in order and no spaces; None for any other text.

    `number` gives a number's one form; `scalars` takes strings, numbers and the like, too.
    """
    text = text.strip()
    if not scalars and not text.startswith(("{", "[")):
        return None
    try:
        value = json.loads(
            text,
            parse_int=lambda it: _Number(number(it)),
            parse_float=lambda it: _Number(number(it)),
            parse_constant=_refuse,
        )
        return _written(value)
    except (ValueError, RecursionError):
        return None


class _Number(str):
    """A number by its one form, so that none is too large or too exact to be compared."""

    __slots__ = ()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _written(value: Any) -> str:
    match value:
        case dict():
            members = (f"{json.dumps(key)}:{_written(value[key])}" for key in sorted(value))
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(map(_written, value)) + "]"
        case _Number():
            return str(value)
        case _:
            return json.dumps(value)


def fenced(text: str, *, ended: bool = True, languages: Collection[str] = ()) -> str | None:
    """What stands in the last fenced block (```), without the spaces that end its lines.

    Where blocks name a language and some name one of these, the last of those is meant. Where the
    text was cut, a block that nothing closes isn't whole, and doesn't count.
    """
    block: list[str] | None = None
    last: dict[bool, str] = {}
    named = False
    for line in text.splitlines():
        if not line.lstrip().startswith("```"):
            if block is not None:
                block.append(line.rstrip())
        elif block is None:
            block = []
            named = line.strip().strip("`").lower() in languages
        else:
            last[named], block = "\n".join(block), None
    if block and ended:
        last[named] = "\n".join(block)
    return last.get(True, last.get(False, "")).strip("\n") or None
