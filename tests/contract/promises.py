"""The tests of a contract as cases, to be run over what has no fixtures of theirs."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from itertools import product
from typing import Any

import pytest


def promises(*contracts: object, but: Collection[str] = ()) -> list[Any]:
    """Each asynchronous test of modules or classes, with each of the arguments it is run with.

    Those that are named in `but` are left out; each of them has to be there.
    """
    found = {
        name: promise
        for contract in contracts
        for name, promise in vars(contract).items()
        if name.startswith("test_") and inspect.iscoroutinefunction(promise)
    }
    assert found.keys() >= set(but)
    return [
        pytest.param(promise, arguments, id="-".join((name, *map(str, arguments.values()))))
        for name, promise in found.items()
        if name not in but
        for arguments in _arguments(promise)
    ]


def _arguments(promise: Any) -> Iterator[dict[str, Any]]:
    marks = [mark for mark in getattr(promise, "pytestmark", ()) if mark.name == "parametrize"]
    names = [mark.args[0] for mark in marks]
    for values in product(*(mark.args[1] for mark in marks)):
        yield dict(zip(names, values, strict=True))
