"""Reads the settings: one TOML profile file, overridden by the environment and by flags.

A key that doesn't exist is an error wherever it comes from, and every error names the place it came
from: the file, the variable or the flag.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from os import environ
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.effort import PRESETS
from planner.errors import LongthinkError
from services.settings import ENV_PREFIX, EffortSettings, Settings, sections

NULL = "null"
"""What a variable or a flag says for no value, where a setting may have none."""

_COMMON = {
    "REDIS_URL": "redis.url",
    "RAY_ADDRESS": "ray.address",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "telemetry.otlp_endpoint",
}
"""Variables that say a setting under the name everybody knows; ours win."""


class SettingsError(LongthinkError):
    """Settings that can't be used. The message has a line for each, with the place it stands."""


def load(
    profile: Path | None = None,
    assignments: Sequence[str] = (),
    env: Mapping[str, str] = environ,
) -> Settings:
    """The settings of a profile (the embedded default without one), the environment and flags.

    `assignments` are `section.name=value`, as after `--set`; the last of two wins. Raises
    SettingsError.
    """
    sources = [_assigned(f"--set {one}", one) for one in reversed(assignments)]
    sources += _environment(env)
    if profile is not None:
        sources.append(_file(profile))
    problems = [problem for source in sources for problem in source.unknown()]
    if problems:
        raise SettingsError("\n".join(problems))
    merged: dict[str, Any] = {}
    for source in reversed(sources):
        merged = _merge(merged, source.tables)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error, sources))) from error


@dataclass(frozen=True, slots=True)
class _Source:
    """What one place says: nested tables, and the place's name."""

    name: str
    tables: Mapping[str, Any]

    def says(self, keys: Sequence[object]) -> bool:
        """Whether something is said here at these nested keys."""
        here: object = self.tables
        for key in keys:
            if not isinstance(here, Mapping) or key not in here:
                return False
            here = here[key]
        return True

    def unknown(self) -> Iterator[str]:
        """A line for each key that isn't a setting."""
        yield from self._strangers("", self.tables, Settings.model_fields)
        for section, table in sections().items():
            yield from self._strangers(section, self.tables.get(section), table.model_fields)
        efforts = self.tables.get("efforts")
        yield from self._strangers("efforts", efforts, PRESETS)
        for word, effort in efforts.items() if isinstance(efforts, Mapping) else ():
            yield from self._strangers(f"efforts.{word}", effort, EffortSettings.model_fields)

    def _strangers(self, prefix: str, table: object, known: Mapping[str, object]) -> Iterator[str]:
        if isinstance(table, Mapping):
            for key in table:
                if key not in known:
                    name = f"{prefix}.{key}".removeprefix(".")
                    yield f"{self.name}: {name}: no such setting{_hint(prefix, key, known)}"


def _hint(prefix: str, key: str, known: Mapping[str, object]) -> str:
    """`; did you mean …?` where a key here is like it or another section has it; else a stop."""
    if like := get_close_matches(key, known, n=1):
        return f"; did you mean {f'{prefix}.{like[0]}'.removeprefix('.')}?"
    for section, table in sections().items():
        if key in table.model_fields:
            return f"; did you mean {section}.{key}?"
    return "."


def _file(path: Path) -> _Source:
    try:
        return _Source(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{path}: can't be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a TOML file: {error}.") from error


def _environment(env: Mapping[str, str]) -> list[_Source]:
    """What `LONGTHINK_SECTION__NAME` variables say, and those of `_COMMON`.

    Variables without the double underscore are left alone: Kubernetes makes some of that form by
    itself (LONGTHINK_PORT, LONGTHINK_SERVICE_HOST) for a service named longthink.
    """
    ours = {
        name: name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        for name in env
        if name.startswith(ENV_PREFIX) and "__" in name
    }
    common = {name: setting for name, setting in _COMMON.items() if env.get(name)}
    return [
        _assigned(name, f"{setting}={env[name]}") for name, setting in {**ours, **common}.items()
    ]


def _assigned(place: str, assignment: str) -> _Source:
    """What one `section.name=value` says."""
    name, equals, value = (part.strip() for part in assignment.partition("="))
    keys = name.split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise SettingsError(f"{place}: write it as section.name=value.")
    said: Any = _value(place, value, untyped=keys[1] == "extra")
    for key in reversed(keys):
        said = {key: said}
    return _Source(place, said)


def _value(place: str, text: str, *, untyped: bool) -> object:
    """What a flag or a variable says: text, which its setting's type makes a number of.

    Tables, lists and quoted strings are read as TOML, and so is all that goes to the engine as it
    is (`untyped`), as there is no type to tell a number by.
    """
    if text == NULL:
        return None
    if not untyped and text[:1] not in ("{", "[", '"', "'"):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{place}: not a TOML value: {error}.") from error


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of both, those of `above` winning."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(under, value) if both else value  # type: ignore[arg-type]
    return merged


def _explain(error: ValidationError, sources: Sequence[_Source]) -> Iterator[str]:
    """A line for each thing that is wrong, with the place it was said."""
    for one in error.errors(include_url=False):
        keys = [key for key in one["loc"] if key != "[key]"]
        place = next((source.name for source in sources if source.says(keys)), "settings")
        reason = one["msg"].removeprefix("Value error, ")
        yield f"{place}: {'.'.join(map(str, keys))}: {reason}."
