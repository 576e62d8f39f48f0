"""A service for strangers under attack: real engines, real Redis, real sockets.

    python -m tests.chaos.hostile [--bodies 10000] [--seconds 900] [--examples 100]

Starts the embedded service with keys on, then: asks for every path without a key; looks where each
of its processes listens, and sends the ports orders without Ray's token; posts hostile bodies side
by side; sends broken HTTP; and has schemathesis make requests from the API's own schema. Prints a
row of figures, and ends with 1 unless there were no unauthenticated successes, no 5xx, no hang, and
the service answers as before.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
import httpx
import psutil
import schemathesis
from hypothesis import HealthCheck, given, settings
from redis.asyncio import Redis
from schemathesis.core.result import Ok

from services.app import Service
from services.keyring import Keyring
from services.redis_server import RedisServer
from services.settings import RedisSettings, ServiceSettings, Settings
from services.tenants import Tenant, TenantLimits
from tests.chaos.figures import Figure, tell
from tests.contract.hostile_bodies import HEADERS, PATHS, monstrous, mutated, request

MODEL = "longthink-reference"
CHAT = "/v1/chat/completions"
OPEN = {"/health/live", "/-/healthz"}
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
HANG_SECONDS = 60.0
SIDE_BY_SIDE = 24
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
ORDERS = (
    "/ray.serve.ASGIService/HandleRequest",
    "/ray.serve.ASGIService/HandleRequestStreaming",
    "/ray.serve.ASGIService/HandleRequestWithRejection",
    "/ray.serve.ASGIService/HandleRequestWithRejectionStreaming",
)
RAW = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/0.9\r\n\r\n",
    b"\x00" * 4096,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
    ),
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET http://evil.example/metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    (
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: x3JJHMbDL1EzLkh9GBhXDw==\r\nsec-websocket-version: 13\r\n\r\n"
    ),
)


@dataclass(slots=True)
class Found:
    """What came of it all."""

    opened: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    slowest: float = 0.0
    obeyed: list[str] = field(default_factory=list)
    exposed: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """To orders without the token."""

    def __str__(self) -> str:
        """For whoever watches."""
        counts = len(self.opened), len(self.broken), len(self.obeyed)
        return "let in {}, broken {}, obeyed {}".format(*counts)

    made: int = 0

    def note(self, what: str, status: int, seconds: float) -> None:
        """One reply."""
        self.statuses[status] += 1
        self.slowest = max(self.slowest, seconds)
        if status >= 500:
            self.broken.append(f"{status}: {what}")


async def sweep(url: str, found: Found) -> int:
    """Every path that is known, by every method, without a key and with wrong ones."""
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"authorization": "Bearer lt-" + "a" * 43},
        {"authorization": "Basic Og=="},
    )
    served = ["/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/metrics"]
    served += ["/v1/models", f"/v1/models/{MODEL}", CHAT, "/v1/traces", "/v1/traces/x"]
    served += ["/v1/traces/x/events", "/v1/budget", "/health/live", "/health/ready"]
    served += ["/web/main.js", "/web/vendor/d3.min.js", "/-/routes", "/-/healthz", "/-/", *PATHS]
    asked = 0
    async with httpx.AsyncClient(base_url=url, timeout=HANG_SECONDS) as http:
        for path in served:
            for method in METHODS:
                for headers in wrong:
                    began = time.monotonic()
                    reply = await http.request(method, path, headers=headers)
                    found.note(f"{method} {path}", reply.status_code, time.monotonic() - began)
                    asked += 1
                    if reply.status_code < 400 and path not in OPEN:
                        found.opened.append(f"{method} {path} {reply.status_code}")
    return asked


def listening() -> list[tuple[str, str, int]]:
    """The processes below this one, each with an address and a port that it listens on."""
    rows = []
    for process in psutil.Process().children(recursive=True):
        try:
            name = " ".join(process.cmdline()[:1]) or process.name()
            rows += [
                (name, one.laddr.ip, one.laddr.port)
                for one in process.net_connections("tcp")
                if one.status == psutil.CONN_LISTEN
            ]
        except psutil.Error:
            continue
    return sorted(set(rows))


async def give_orders(ports: list[tuple[str, str, int]], found: Found) -> None:
    """Send every port an order as a replica takes them, without the token."""

    async def order(name: str, port: int, what: str) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                await channel.unary_unary(what)(b"", timeout=5)
                found.obeyed.append(f"{name} {port} {what}")
            except grpc.aio.AioRpcError as error:
                found.answers[error.code().name] += 1
                # Past the token, an empty order fails in the replica's own code.
                if error.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
                    why = f"{error.code()} {(error.details() or '')[:80]}"
                    found.obeyed.append(f"{name} {port} {what} {why}")

    found.exposed += [
        f"{name} {address}:{port}" for name, address, port in ports if address not in LOOPBACK
    ]
    async with asyncio.TaskGroup() as group:
        for name, _, port in ports:
            for what in ORDERS:
                group.create_task(order(name, port, what))


async def attack(url: str, key: str, bodies: int, seconds: float, found: Found) -> int:
    """Hostile bodies side by side, for at most so long; how many were sent."""
    dice, sent = random.Random(5), 0
    ready = monstrous(MODEL)
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=SIDE_BY_SIDE)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with httpx.AsyncClient(
        base_url=url, timeout=HANG_SECONDS, limits=limits, headers=headers
    ) as http:

        async def one(content: bytes, more: dict[str, str]) -> None:
            began = time.monotonic()
            try:
                reply = await http.post(CHAT, content=content, headers=more)
            except httpx.HTTPError as error:
                found.broken.append(f"{type(error).__name__} {error}: {content[:200]!r}")
                return
            said = reply.text[:150] if reply.status_code >= 500 else ""
            what = f"{said} {content[:200]!r}"
            found.note(what, reply.status_code, time.monotonic() - began)

        async def sender() -> None:
            nonlocal sent
            while sent < bodies and time.monotonic() < until:
                number, sent = sent, sent + 1
                monster = number % 50 == 0
                content = ready[number // 50 % len(ready)] if monster else mutated(dice, MODEL)
                await one(content, dice.choice(HEADERS) if number % 20 == 0 else {})

        async with asyncio.TaskGroup() as group:
            for _ in range(SIDE_BY_SIDE):
                group.create_task(sender())
    return sent


def talk_nonsense(url: str, found: Found) -> None:
    """Broken HTTP: it is refused or cut off, and nobody is let in by it."""
    where = urlsplit(url)
    for said in RAW:
        heard = b""
        with socket.create_connection((where.hostname, where.port or 80), timeout=10) as raw:
            try:
                raw.sendall(said)
                while piece := raw.recv(65536):
                    heard += piece
            except (ConnectionError, TimeoutError):
                pass  # whether it was cut off or is waited for: what counts is what was heard
        if any(word in heard for word in (b" 200 ", b" 101 ", b"# HELP")):
            found.opened.append(f"raw {said[:40]!r}: {heard[:60]!r}")
        if b"HTTP/1.1 5" in heard:
            found.broken.append(f"raw {said[:40]!r}: {heard[:60]!r}")


def follow_the_schema(url: str, key: str, examples: int, found: Found) -> None:
    """What schemathesis makes of the API's own description, operation by operation."""
    headers = {"authorization": f"Bearer {key}"}
    described = httpx.get(f"{url}/openapi.json", headers=headers).raise_for_status().json()
    schema = schemathesis.openapi.from_dict(described)
    with httpx.Client(timeout=HANG_SECONDS) as client:
        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()

            @given(case=operation.as_strategy())
            @settings(
                max_examples=examples,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            def send(case: Any) -> None:
                said = case.as_transport_kwargs(base_url=url)
                said = {name: it for name, it in said.items() if it and name != "cookies"}
                said["headers"] = {**said.get("headers", {}), **headers}
                began = time.monotonic()
                try:
                    reply = client.request(**said)
                except (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeEncodeError):
                    return  # what can't be sent
                found.made += 1
                took = time.monotonic() - began
                found.note(f"{case.method} {case.path}", reply.status_code, took)

            send()


async def keys(url: str) -> tuple[str, str]:
    """The key of a tenant with limits, and that of an operator."""
    async with Redis.from_url(url) as redis:
        ring = Keyring(redis)
        limits = TenantLimits(requests=64, candidates_at_once=128, completion_tokens=50_000_000)
        stranger = await ring.make(Tenant("stranger", limits=limits))
        return stranger, await ring.make("operator", operator=True)


def healthy(url: str, key: str) -> bool:
    """Whether every engine answers, a question is answered, and nothing is left under way."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, timeout=HANG_SECONDS, headers=headers) as http:
        ready = http.get("/health/ready").status_code == 200
        asked = request(MODEL, "Anna has 3 boxes with 12 pens each. How many pens does Anna have?")
        asked |= {"max_tokens": 100, "stop": [], "longthink": {"budget": {"candidates": 8}}}
        answered = http.post(CHAT, json=asked).status_code == 200
        until = time.monotonic() + 30
        while under_way := http.get("/v1/budget").json()["at_once"]["requests"]["under_way"]:
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        return ready and answered and not under_way


def say(line: str) -> None:
    """Tell whoever watches."""
    sys.stderr.write(f"{line}\n")


def main() -> int:
    """Run it all; 0 if the figure holds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--examples", type=int, default=100)
    said = parser.parse_args()
    found = Found()
    with RedisServer() as redis:
        service = ServiceSettings(
            port=0, keys=True, default_effort="minimal", default_max_tokens=64, log_level="error"
        )
        profile = Settings(redis=RedisSettings(url=redis.url), service=service)
        with Service.start(profile, tell=say) as running:
            tenant, operator = asyncio.run(keys(redis.url))
            asked = asyncio.run(sweep(running.url, found))
            say(f"{asked} requests without a key: {found}")
            ports = listening()
            asyncio.run(give_orders(ports, found))
            say(f"{len(ports)} ports: {found}")
            talk_nonsense(running.url, found)
            follow_the_schema(running.url, operator, said.examples, found)
            say(f"{found.made} requests of the schema: {found}")
            began = time.monotonic()
            sent = asyncio.run(attack(running.url, tenant, said.bodies, said.seconds, found))
            took = time.monotonic() - began
            say(f"{sent} bodies: {found}")
            alive = healthy(running.url, tenant)
    for title, rows in (
        ("let in without a key", found.opened),
        ("broken", found.broken),
        ("took orders without the token", found.obeyed),
        ("listens beyond loopback", found.exposed),
    ):
        for row in rows[:20]:
            say(f"{title}: {row}")
    statuses = ", ".join(f"{status} x {count}" for status, count in sorted(found.statuses.items()))
    say(f"statuses: {statuses}")
    say(f"orders without the token: {dict(found.answers)}")
    return tell(
        [
            Figure(
                f"every path by every method without a key ({asked} requests)",
                "none answered",
                f"{len(found.opened)} answered",
                held=not found.opened,
            ),
            Figure(
                f"{sent:,} of {said.bodies:,} hostile bodies in {took:.0f} s, {found.made:,} of "
                f"the schema, {len(RAW)} of broken HTTP",
                "no 5xx, none hung",
                f"{len(found.broken)}; slowest {found.slowest:.1f} s",
                held=not found.broken and sent >= said.bodies and found.slowest < HANG_SECONDS,
            ),
            Figure("after that", "engines alive, nothing left", str(alive), held=alive),
            Figure(
                f"orders without Ray's token to {len(ports)} ports, {len(found.exposed)} of them "
                "beyond loopback",
                "none obeyed",
                f"{len(found.obeyed)} obeyed",
                held=not found.obeyed and bool(found.answers["UNAUTHENTICATED"]),
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
