"""What answers of the past taught, kept in Redis by model and by strategy with its selector.

Curves that make a confidence mean what it says, what each way to answer was worth at its cost, and
how many requests there were. `longthink eval --calibrate` finds the first two; a profile may bring
them in a file, for what Redis doesn't know. What always holds: no reply waits for Redis here, and
without Redis, or where nothing was fitted, a confidence stays raw and says so.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError

from planner.calibration import (
    Calibration,
    Gain,
    calibration_data,
    family,
    gain_data,
    read_calibration,
    read_gain,
)
from planner.curves import curve_data, read_curve
from planner.domain import Cost, Outcome
from planner.effort import Effort
from planner.errors import LongthinkError

if TYPE_CHECKING:
    from redis.asyncio import Redis

_KEPT_SECONDS = 400 * 24 * 3600
"""It is knowledge: kept for over a year after it was last written or read."""
_FRESH_SECONDS = 30.0
"""So long, what Redis said last is taken as what it would say now."""
_CURVE, _GAINS, _SOURCE = "curve:", "gains:", "source"
_REQUESTS, _TOKENS = "requests:", "completion_tokens:"

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class CalibrationError(LongthinkError):
    """A file of a calibration that can't be used."""


def load(path: Path) -> Calibration:
    """The calibration in a file. Raises CalibrationError."""
    try:
        return read_calibration(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise CalibrationError(f"{path}: can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{path}: isn't a calibration: {error}.") from error


def save(calibration: Calibration, path: Path) -> None:
    """Write it into a file, whole or not at all."""
    fresh = path.with_suffix(".new")
    text = json.dumps(calibration_data(calibration), indent=1, ensure_ascii=False)
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(path)


@dataclass(frozen=True, slots=True)
class Past:
    """How many requests there were, and the completion tokens that all of them took."""

    requests: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Past) -> Past:
        return Past(
            self.requests + other.requests, self.completion_tokens + other.completion_tokens
        )


class CalibrationStore:
    """Calibrations and counts in Redis, two hashes a model. All raise RedisError without it."""

    def __init__(self, redis: Redis, *, kept_seconds: int = _KEPT_SECONDS) -> None:
        self._redis = redis
        self._kept = kept_seconds

    async def get(self, model: str) -> Calibration | None:
        """What is known of a model. Raises ValueError where something else stands there."""
        async with self._redis.pipeline(transaction=False) as pipe:
            _ = pipe.hgetall(_calibration_key(model))
            _ = pipe.expire(_calibration_key(model), self._kept)
            found, _ = await pipe.execute()
        return _read(model, _texts(found)) if found else None

    async def put(self, calibration: Calibration) -> None:
        """Keep a calibration; of what is there already, only what it knows anew is replaced."""
        key = _calibration_key(calibration.model)
        async with self._redis.pipeline(transaction=True) as pipe:
            _ = pipe.hset(key, mapping=_fields(calibration))
            _ = pipe.expire(key, self._kept)
            await pipe.execute()

    async def count(self, model: str, passed: Mapping[str, Past]) -> None:
        """Add to the counts, by family. Sent again after a lost reply, they may count twice."""
        key = _past_key(model)
        async with self._redis.pipeline(transaction=True) as pipe:
            for name, past in passed.items():
                _ = pipe.hincrby(key, f"{_REQUESTS}{name}", past.requests)
                _ = pipe.hincrby(key, f"{_TOKENS}{name}", past.completion_tokens)
            _ = pipe.expire(key, self._kept)
            await pipe.execute()

    async def past(self, model: str) -> dict[str, Past]:
        """The counts of all requests to a model, by family."""
        found: dict[str, Past] = {}
        for field, count in _texts(await self._redis.hgetall(_past_key(model))).items():
            kind, _, name = field.partition(":")
            more = Past(**{kind: int(count)})
            found[name] = found.get(name, Past()) + more
        return found


class Calibrations:
    """What is known of the model that a service serves, as of the last look into Redis.

    `shipped` is what the profile brings; what Redis knows goes before it. The look is taken in the
    background, at most every `fresh_seconds`, when a request comes.
    """

    def __init__(
        self,
        model: str,
        store: CalibrationStore | None = None,
        shipped: Calibration | None = None,
        *,
        fresh_seconds: float = _FRESH_SECONDS,
    ) -> None:
        self._model = model
        self._store = store
        self._shipped = shipped
        self._fresh = fresh_seconds
        self._known = shipped
        self._past: Mapping[str, Past] = {}
        self._noted: dict[str, Past] = {}
        self._looked: float | None = None
        self._look: asyncio.Task[None] | None = None

    @property
    def known(self) -> Calibration | None:
        """Curves and gains; None where nothing was ever fitted."""
        return self._known

    @property
    def past(self) -> Mapping[str, Past]:
        """Requests to this model, by family, of all its services."""
        return self._past

    def calibrated(self, effort: Effort, outcome: Outcome) -> float | None:
        """How likely the answer is right; None where nobody knows, or where there is none."""
        if self._known is None or outcome.answer is None:
            return None
        selector = outcome.selector or effort.selector
        return self._known.apply(effort.strategy, selector, outcome.confidence, outcome.finished)

    def note(self, effort: Effort, outcome: Outcome, spent: Cost) -> None:
        """Count a request that has its outcome."""
        name = family(effort.strategy, outcome.selector or effort.selector)
        more = Past(1, spent.completion_tokens)
        self._noted[name] = self._noted.get(name, Past()) + more

    def refresh_soon(self) -> None:
        """Have Redis looked into, unless that was done just now or is being done."""
        stale = self._looked is None or time.monotonic() - self._looked >= self._fresh
        if self._store is None or not stale or (self._look is not None and not self._look.done()):
            return
        self._look = asyncio.get_running_loop().create_task(self.refresh())

    async def refresh(self) -> None:
        """Carry the counts to Redis and learn what it knows. Without it, all stays as it is."""
        if self._store is None:
            return
        self._looked = time.monotonic()
        noted, self._noted = self._noted, {}
        try:
            if noted:
                await self._store.count(self._model, noted)
                noted = {}
            self._past = await self._store.past(self._model)
            found = await self._store.get(self._model)
        except (RedisError, ValueError, TypeError) as error:
            _log.warning("calibration can't be looked up", error=str(error))
            for name, past in noted.items():
                self._noted[name] = self._noted.get(name, Past()) + past
            return
        self._known = self._shipped if found is None else found.over(self._shipped)

    async def aclose(self) -> None:
        """Wait for the look under way, and carry over what was counted. Idempotent."""
        if self._look is not None:
            await self._look
        if self._noted:
            await self.refresh()


def _calibration_key(model: str) -> str:
    return f"longthink:{{{model}}}:calibration"


def _past_key(model: str) -> str:
    return f"longthink:{{{model}}}:past"


def _fields(calibration: Calibration) -> dict[Any, Any]:
    """A field for each curve, and for the gains of each strategy: either can be replaced alone."""
    gains: dict[str, list[Gain]] = {}
    for gain in calibration.gains:
        gains.setdefault(gain.strategy, []).append(gain)
    return {
        _SOURCE: calibration.source,
        **{
            f"{_CURVE}{name}": json.dumps(curve_data(curve))
            for name, curve in calibration.curves.items()
        },
        **{
            f"{_GAINS}{name}": json.dumps([gain_data(gain) for gain in found])
            for name, found in gains.items()
        },
    }


def _read(model: str, fields: Mapping[str, str]) -> Calibration:
    curves = {
        field.removeprefix(_CURVE): read_curve(json.loads(text))
        for field, text in fields.items()
        if field.startswith(_CURVE)
    }
    gains = tuple(
        read_gain(gain)
        for field, text in sorted(fields.items())
        if field.startswith(_GAINS)
        for gain in json.loads(text)
    )
    return Calibration(model, curves, gains, fields.get(_SOURCE, ""))


def _texts(found: Mapping[Any, Any]) -> dict[str, str]:
    return {_text(field): _text(value) for field, value in found.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
