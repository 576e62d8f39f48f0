"""A thousand mutated requests: each is answered or refused, and the service is none the worse."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from tests.contract.scripted_service import BODY, CHAT, serving

FULL: dict[str, Any] = {
    **BODY,
    "temperature": 0.7,
    "top_p": 0.9,
    "max_tokens": 100,
    "stop": ["a", "b"],
    "seed": 1,
    "n": 2,
    "stream": False,
    "reasoning_effort": "low",
    "presence_penalty": 0,
    "tools": [],
    "metadata": {"a": "b"},
    "longthink": {
        "strategy": "majority",
        "selector": "weighted",
        "stop": "certain",
        "budget": {"completion_tokens": 100, "usd": 0.5, "deadline_seconds": 1.5},
    },
}
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1 << 70,
    0.5,
    1e300,
    "",
    "x" * 5000,
    "\x00\u2028\U0001f600",
    [],
    {},
    [[[]]],
    {"": ""},
    ["a"] * 2000,
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    return found + [
        place for key in keys if isinstance(value[key], dict | list) for place in places(value[key])
    ]


def mutated(dice: random.Random) -> bytes:
    """A request with a few things wrong with it, and its bytes with them now and then."""
    body = copy.deepcopy(FULL)
    for _ in range(dice.randint(1, 3)):
        container, key = dice.choice(places(body))
        match dice.randrange(4):
            case 0 if isinstance(container, dict):
                del container[key]
            case 1 if isinstance(container, dict):
                container[dice.choice(["x", "", "\n", key + " "])] = dice.choice(ODD)
            case _:
                container[key] = copy.deepcopy(dice.choice(ODD))
    content = bytearray(json.dumps(body, ensure_ascii=dice.random() < 0.5).encode())
    if dice.random() < 0.3:
        for _ in range(dice.randint(1, 8)):
            content[dice.randrange(len(content))] = dice.randrange(256)
    if dice.random() < 0.1:
        del content[dice.randrange(len(content)) :]
    return bytes(content)


@pytest.mark.timeout(180)
async def test_a_thousand_mutated_requests_do_no_harm() -> None:
    """Every reply is a completion or a 4xx with OpenAI's error object; then all works as before."""
    dice = random.Random(7)
    statuses: dict[int, int] = {}
    async with serving() as service:
        for _ in range(1000):
            content = mutated(dice)
            response = await service.http.post(
                CHAT, content=content, headers={"content-type": "application/json"}
            )
            status = response.status_code
            statuses[status] = statuses.get(status, 0) + 1
            assert status == 200 or 400 <= status < 500, content
            if status != 200 or not response.headers["content-type"].startswith("text/"):
                assert ("error" in response.json()) == (status != 200)
        assert (await service.http.post(CHAT, json=FULL)).status_code == 200
        in_flight = service.telemetry.registry.get_sample_value("longthink_requests_in_flight")
    assert in_flight == 0
    assert statuses[200] > 50
    assert statuses[400] > 500
