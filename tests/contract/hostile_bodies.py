"""Bodies, headers and paths that nobody sends by mistake, and mutations of a good request.

What a service answers to them is a completion or a 4xx with OpenAI's error object, at once.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 70, -(1 << 63), 0.5, 1e300, -0.0, "", "x" * 5000,
    "\x00\u2028\U0001f600",
    "\ud800", "{{7*7}}", "'; DROP TABLE", "../../etc/passwd", "<script>", "%s%n", [], {}, [[[]]],
    {"": ""}, {"$ref": "#"}, {"__class__": "x"}, ["a"] * 2000, [None] * 3,
    {str(n): n for n in range(300)},
)  # fmt: skip


def request(model: str, question: str = "What is 6 x 7?") -> dict[str, Any]:
    """A good request that costs little, with most of what one may say."""
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": question}]},
        ],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 16,
        "stop": ["a", "b"],
        "seed": 1,
        "n": 1,
        "stream": False,
        "reasoning_effort": "minimal",
        "presence_penalty": 0,
        "tools": [],
        "metadata": {"a": "b"},
        "longthink": {
            "strategy": "majority",
            "selector": "weighted",
            "stop": "certain",
            "budget": {
                "candidates": 2,
                "completion_tokens": 40,
                "reward_tokens": 400,
                "usd": 0.01,
                "deadline_seconds": 5.0,
            },
        },
    }


def mutated(dice: random.Random, model: str) -> bytes:
    """A request with a few things wrong with it, and its bytes with them now and then."""
    body = request(model)
    for _ in range(dice.randint(1, 3)):
        container, key = dice.choice(places(body))
        match dice.randrange(4):
            case 0 if isinstance(container, dict):
                del container[key]
            case 1 if isinstance(container, dict):
                name = dice.choice(["x", "", "\n", f"{key} ", "__proto__"])
                container[name] = copy.deepcopy(dice.choice(ODD))
            case _:
                container[key] = copy.deepcopy(dice.choice(ODD))
        if not body:
            break
    # Halves of surrogate pairs are no UTF-8: such bytes are sent as well.
    text = json.dumps(body, ensure_ascii=dice.random() < 0.5)
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    if dice.random() < 0.3 and content:
        for _ in range(dice.randint(1, 8)):
            content[dice.randrange(len(content))] = dice.randrange(256)
    if dice.random() < 0.1 and content:
        del content[dice.randrange(len(content)) :]
    return bytes(content)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    return found + [
        place for key in keys if isinstance(value[key], dict | list) for place in places(value[key])
    ]


def monstrous(model: str) -> list[bytes]:
    """Too much of everything: depth, length, counts, digits, names that come twice."""
    good = json.dumps(request(model))
    many = [{"role": "user", "content": "x"}] * 5000
    parts = [{"type": "text", "text": "x"}] * 5000
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90_000}}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

    def with_(**fields: Any) -> bytes:
        return json.dumps({**request(model), **fields}).encode()

    return [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"0",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf" + good.encode(),
        b"[" * 500_000,
        b"[" * 400_000 + b"]" * 400_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        good[:-1].encode() + b',"metadata":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        good[:-1].encode() + b',"seed":' + b"9" * 100_000 + b"}",
        good[:-1].encode() + b',"temperature":1e' + b"9" * 1_000 + b"}",
        good[:-1].encode() + b',"temperature":NaN}',
        good[:-1].encode() + b',"model":"other","model":"other"}' * 3,
        b'{"x":"' + b"x" * 1_000_000 + b'"}',
        b"x" * 3_000_000,
        with_(messages=many),
        with_(messages=[{"role": "user", "content": parts}]),
        with_(messages=[{"role": "user", "content": picture * 5}]),
        with_(messages=[{"role": "user", "content": "seven " * 100_000}]),
        with_(messages=[{"role": "tool", "content": "x", "tool_call_id": "1"}]),
        with_(tools=[tool] * 500),
        with_(stop=["x"] * 1000),
        with_(n=1 << 40),
        with_(longthink={"strategy": "plan(" * 60 + "single" + ")" * 60}),
        with_(longthink={"strategy": "beam", "budget": {"candidates": 1 << 40}}),
        with_(longthink={"trace_id": "*"}),
        with_(longthink={"trace_id": "}{"}),
        with_(longthink={"code": {"inputs": ["x" * 60_000] * 40}}),
        with_(longthink={"code": {"inputs": ["["], "entry": "__import__('os')"}}),
        with_(longthink={"stop": "beta:" + "9" * 50}),
        with_(longthink={"stop": "+" * 60}),
    ]


HEADERS: tuple[dict[str, str], ...] = (
    {"content-type": "text/plain"},
    {"content-type": "application/json; charset=utf-7"},
    {"content-type": "application/x-www-form-urlencoded"},
    {"idempotency-key": "x" * 300},
    {"x-request-id": "x" * 5000},
    {"x-request-timeout-seconds": "0", "x-request-disconnect-disabled": "?1"},
    {"last-event-id": "9" * 400},
    {"accept": "x" * 9000},
    {"expect": "100-continue"},
    {"host": "evil.example"},
)
"""What may be wrong beside the body."""

PATHS = (
    "/v1/traces/%00", "/v1/traces/..%2f..%2fetc", "/v1/traces/" + "a" * 5000, "/v1/traces?limit=-1",
    "/v1/traces?limit=" + "9" * 400, "/v1/traces?limit=%F0", "/v1/models/" + "x/" * 500,
    "/web/../services/app.py", "/web/..%2f..%2fapp.py", "/web/%2e%2e/app.py", "//", "/%", "/%ff",
    "/v1/budget?x=" + "y" * 5000, "/-/routes", "/docs/../metrics", "/openapi.json%00",
)  # fmt: skip
"""Paths at which there is nothing, or nothing for who asks so."""
