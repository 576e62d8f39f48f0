"""What a load is: how often or by how many users, for how long, of what, and for whom.

A plan crosses to the process that makes the load as JSON, on its standard input: tenants' keys are
in it, and a command line can be read by everybody on the machine. What is kept on disk is
`described`, which has no key in it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Self

from planner.effort import PRESETS
from planner.errors import InvalidOption

_BURST = re.compile(r"(?P<factor>\d+(?:\.\d+)?)x(?P<seconds>\d+(?:\.\d+)?)(?:/(?P<every>\d+\S*))?")
_USERS = 4
"""So many users where neither a rate nor a number of users was asked for."""
_LATE = 0.5
"""Seconds by which a reply may miss its deadline and still be in time: writing it takes some."""
LOCAL = "local"
"""Whoever asks where no tenants are named."""


@dataclass(frozen=True, slots=True)
class Burst:
    """For `seconds`, requests come `factor` times as often: once, or in every `every` seconds."""

    factor: float
    seconds: float
    every: float | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A tenant that asks with a key of its own, `weight` times as often as one of weight 1."""

    name: str
    secret: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Share:
    """One of several things to choose from, in proportion to its weight."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides what is asked, and when.

    Of `rate` (requests a second, an open loop) and `users` (each asks again once it has its answer,
    a closed loop) exactly one is set. `stream` and `hangups` are shares of the requests, 0 to 1:
    those that are streamed, and those whose client goes away before `hangup_seconds` have passed.
    """

    seconds: float
    rate: float | None = None
    users: int | None = None
    bursts: tuple[Burst, ...] = ()
    splits: tuple[Share, ...] = (Share("hard"),)
    efforts: tuple[Share, ...] = (Share("low"),)
    keys: tuple[Key, ...] = ()
    stream: float = 0.5
    hangups: float = 0.0
    hangup_seconds: float = 2.0
    deadline: float | None = None
    tokens: int | None = None
    within: float | None = None
    questions: int = 300
    grace: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.users is None):
            raise InvalidOption(
                "Either --rate (requests a second) or --users (so many at a time), not both."
            )
        if self.bursts and self.rate is None:
            raise InvalidOption("--burst needs --rate: users ask as fast as they are answered.")
        for name, share in (("--stream", self.stream), ("--hang-ups", self.hangups)):
            if not 0 <= share <= 1:
                raise InvalidOption(f"{name} is a share of the requests, from 0 to 1, not {share}.")

    @classmethod
    def of(
        cls,
        *,
        rate: float | None,
        users: int | None,
        burst: str | None,
        split: str,
        efforts: str,
        keys: Path | None,
        secret: str | None = None,
        **others: Any,
    ) -> Self:
        """A plan from the options of the command line. Raises InvalidOption.

        Without `keys` there is one tenant, with the key `secret` if it needs one.
        """
        alone = (Key(LOCAL, secret),) if secret else ()
        return cls(
            rate=rate,
            users=_USERS if rate is None and users is None else users,
            bursts=bursts(burst) if burst else (),
            splits=shares(split, "--split"),
            efforts=_known(shares(efforts, "--efforts")),
            keys=read_keys(keys) if keys else alone,
            **others,
        )

    @property
    def timely(self) -> float | None:
        """Seconds within which a reply is in time, from when it was meant to be asked for."""
        if self.within is not None or self.deadline is None:
            return self.within
        return self.deadline + _LATE

    def in_json(self) -> dict[str, Any]:
        """The plan with its keys."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `in_json` gave."""
        kinds = {"bursts": Burst, "splits": Share, "efforts": Share, "keys": Key}
        lists = {name: tuple(kind(**one) for one in said[name]) for name, kind in kinds.items()}
        return cls(**{**said, **lists})

    def described(self) -> dict[str, Any]:
        """The plan without its keys: tenants by name and weight."""
        tenants = [{"name": key.name, "weight": key.weight} for key in self.keys]
        said = {name: value for name, value in self.in_json().items() if name != "keys"}
        return {**said, "tenants": tenants}


def bursts(text: str) -> tuple[Burst, ...]:
    """The bursts of `3x10/60,2x5`: FACTORxSECONDS, in every so many seconds or once.

    Raises InvalidOption.
    """
    return tuple(_burst(one.strip()) for one in text.split(","))


def _burst(text: str) -> Burst:
    found = _BURST.fullmatch(text)
    every = _number(found["every"]) if found and found["every"] else None
    if found is None or (found["every"] and every is None):
        raise InvalidOption(
            f"--burst is FACTORxSECONDS, as in 3x10 for ten seconds of three times the rate, or "
            f"3x10/60 for such a burst in every 60 seconds; not {text!r}."
        )
    burst = Burst(float(found["factor"]), float(found["seconds"]), every)
    if every is not None and every < burst.seconds:
        raise InvalidOption(f"A burst of {burst.seconds:g} s doesn't fit into {every:g} s: {text}.")
    return burst


def shares(text: str, option: str) -> tuple[Share, ...]:
    """What `easy:3,hard` names, with weights. Raises InvalidOption."""
    found = []
    for one in text.split(","):
        name, _, weight = one.strip().partition(":")
        share = 1.0 if not weight else _number(weight)
        if not name or share is None or share <= 0:
            raise InvalidOption(f"{option} is NAME[:WEIGHT][,…], as in easy:3,hard; not {text!r}.")
        found.append(Share(name, share))
    return tuple(found)


def _known(efforts: Sequence[Share]) -> tuple[Share, ...]:
    for one in efforts:
        if one.name not in PRESETS:
            raise InvalidOption(
                f"--efforts are of {', '.join(PRESETS)}, with commas between them, not {one.name}."
            )
    return tuple(efforts)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The tenants of a TOML file: a table for each, with `key`, and `weight` if it isn't 1.

    Raises InvalidOption that never says what a key is.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidOption(f"--keys {path}: can't be read: {error}.") from error
    found = tuple(_key(path, name, table) for name, table in said.items())
    if not found:
        raise InvalidOption(f"--keys {path}: names no tenant.")
    return found


def _key(path: Path, name: str, table: Any) -> Key:
    secret = table.get("key") if isinstance(table, dict) else None
    weight = table.get("weight", 1.0) if isinstance(table, dict) else 1.0
    right = isinstance(secret, str) and secret.isascii() and secret.isprintable() and secret
    if not right or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise InvalidOption(
            f'--keys {path}: [{name}] needs key = "…", a key that `longthink keys` made, and may '
            "have weight = 2, a number above 0."
        )
    return Key(name, str(secret), float(weight))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None
