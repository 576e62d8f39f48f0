"""API keys: nobody comes in without one, and none sees what is another's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi.routing import APIRoute
from openai import AsyncOpenAI, AuthenticationError
from redis.asyncio import Redis
from starlette.routing import Route

from planner.errors import LedgerUnavailable
from services.allowance import Usage
from services.idempotency import Key
from services.keyring import PREFIX, Keyring, KeyringError
from services.tenants import Tenant, TenantLimits
from services.trace import Event, Kind
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    Shelf,
    Stage,
    serving,
    started,
    until_cancelled,
)

ANNA, BEN = Tenant("anna"), Tenant("ben")
TENANTS = {"a": ANNA, "b": BEN, "o": Tenant("root", operator=True)}


async def find(key: str) -> Tenant | None:
    """Three keys of one letter."""
    return TENANTS.get(key)


async def usage(_: Tenant) -> Usage:
    """Nobody may hear of it."""
    raise AssertionError


def keyed(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"authorization": f"Bearer {key}"}


def basic(name: str, password: str) -> dict[str, str]:
    """The header by which a browser carries a password."""
    pair = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"authorization": f"Basic {pair}"}


@pytest.fixture
async def keyring(redis_client: Redis) -> AsyncIterator[Keyring]:
    """A keyring on the empty Redis. What it keeps, it keeps for ever: it is taken away after."""
    yield Keyring(redis_client)
    for name in ("keys", "tenants", "secret"):
        await redis_client.delete(PREFIX + name)


def routes(stage: Stage) -> list[tuple[str, str]]:
    """Every (method, path) that the application has mounted."""
    found = []
    for route in stage.app().routes:
        assert isinstance(route, Route | APIRoute), f"{route} is of a kind that no test knows"
        path = route.path.replace("{name:path}", "index.html").replace("{trace_id}", "abc")
        found += [(method, path) for method in route.methods or ()]
    return found


async def test_no_route_but_liveness_answers_without_a_key() -> None:
    """Of all that is mounted, whatever its method, and of what isn't, only liveness is open."""
    stage = Stage(find=find, usage=usage)
    mounted = routes(stage)
    known = {"/", "/docs", "/openapi.json", "/metrics", "/health/ready", "/v1/budget", CHAT}
    assert known <= {path for _, path in mounted}
    strange = [
        ("GET", "/nothing"),
        ("GET", "/health/live/"),
        ("GET", "//health/live"),
        ("PUT", "/"),
    ]
    wrong = [
        {},
        keyed("x"),
        keyed("Bearer"),
        basic("a", ""),
        basic("a", "x"),
        {"authorization": "a"},
    ]
    opened = set()
    async with serving(stage=stage) as service:
        for method, path in [*mounted, *strange]:
            for headers in wrong:
                response = await service.http.request(method, path, headers=headers)
                if response.status_code != 401:
                    opened.add(path)
                elif method != "HEAD":
                    assert response.json()["error"]["code"] == "invalid_api_key"
                    assert "Basic" in response.headers["www-authenticate"]
        assert opened == {"/health/live"}
        assert not service.reasoner.runs


async def test_a_key_opens_the_service_to_every_kind_of_client() -> None:
    """OpenAI's client sends it as a token, a browser as the password of any user."""
    async with serving(stage=Stage(find=find)) as service:
        url = f"{service.url}/v1"
        async with AsyncOpenAI(base_url=url, api_key="a", max_retries=0) as openai:
            assert [model.id async for model in openai.models.list()]
        async with AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as openai:
            with pytest.raises(AuthenticationError):
                await openai.models.list()
        for headers in (basic("", "a"), basic("anybody", "a"), {"authorization": "bearer a"}):
            assert (await service.http.get("/", headers=headers)).status_code == 200
        twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")]
        assert (await service.http.get("/", headers=twice)).status_code == 401


async def test_metrics_are_for_operators() -> None:
    """What the service did for all is not for one of them, however the path is written."""
    async with serving(stage=Stage(find=find)) as service:
        assert (await service.http.get("/metrics", headers=keyed("o"))).status_code == 200
        for path in ("/metrics", "/metrics/"):
            refused = await service.http.get(path, headers=keyed("a"))
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "operators_only"


async def test_keys_that_cannot_be_looked_up_let_nobody_in() -> None:
    """Without Redis nobody is known: 503, and nothing starts."""

    async def down(_: str) -> Tenant | None:
        raise LedgerUnavailable("redis://:secret@host")

    async with serving(stage=Stage(find=down)) as service:
        response = await service.http.post(CHAT, json=BODY, headers=keyed("a"))
        assert not service.reasoner.runs
    assert response.status_code == 503
    assert response.headers["retry-after"] in ("1", "2")
    assert 1000 <= int(response.headers["retry-after-ms"]) <= 2000
    assert "secret" not in response.text


async def test_a_search_is_its_tenants_own() -> None:
    """Others can't read, follow or end it while it runs, and are told that it doesn't exist."""
    async with serving(until_cancelled, Stage(find=find)) as service:
        asked = asyncio.create_task(service.http.post(CHAT, json=BODY, headers=keyed("a")))
        run = await started(service)
        assert run.tenant == ANNA
        path = f"/v1/traces/{run.trace.id}"
        for method, where in (("GET", path), ("GET", f"{path}/events"), ("DELETE", path)):
            refused = await service.http.request(method, where, headers=keyed("b"))
            assert refused.status_code == 404
            assert refused.json()["error"]["code"] == "trace_not_found"
        assert not run.cancelled.is_set()
        ended = await service.http.delete(path, headers=keyed("a"))
        assert ended.status_code == 202
        assert (await asked).status_code == 200


def opened(tenant: str) -> list[Event]:
    """The trace of a request that was just opened."""
    query = {"messages": [{"role": "user", "content": "?"}]}
    data = {"query": query, "effort": {"strategy": "auto"}, "tenant": tenant}
    return [Event(0, 0.0, Kind.OPENED, data)]


async def test_traces_that_are_kept_are_their_tenants_own() -> None:
    """Each lists and reads its own, an operator those of all."""
    shelf = Shelf()
    shelf.events = {"of-a": opened("anna"), "of-b": opened("ben")}
    async with serving(stage=Stage(find=find, traces=shelf)) as service:

        async def get(key: str, path: str) -> httpx.Response:
            return await service.http.get(f"/v1/traces{path}", headers=keyed(key))

        async def listed(key: str) -> list[str]:
            return [row["id"] for row in (await get(key, "")).json()["data"]]

        assert await listed("a") == ["of-a"]
        assert await listed("b") == ["of-b"]
        assert sorted(await listed("o")) == ["of-a", "of-b"]
        assert (await get("a", "/of-a")).status_code == 200
        assert (await get("o", "/of-a")).status_code == 200
        assert (await get("b", "/of-a")).status_code == 404
        assert (await get("b", "/of-a/events")).status_code == 404
        gone = await service.http.delete("/v1/traces/of-a", headers=keyed("b"))
        assert gone.status_code == 404
        assert not shelf.asked


async def test_a_key_is_kept_as_its_digest_only(keyring: Keyring, redis_client: Redis) -> None:
    """It finds its tenant with the limits it was made with; Redis has nothing of it."""
    limits = TenantLimits(completion_tokens=1000, requests=2)
    key = await keyring.make(Tenant("anna", weight=2.0, priority=3, limits=limits))
    tenant = await keyring.find(key)
    assert tenant is not None
    assert (tenant.id, tenant.weight, tenant.priority) == ("anna", 2.0, 3)
    assert tenant.limits == limits
    assert not tenant.operator
    kept = [await redis_client.hgetall(PREFIX + name) for name in ("keys", "tenants")]
    assert key not in str(kept)
    assert key.removeprefix("lt-") not in str(kept)


async def test_keys_of_a_tenant_share_its_limits_and_its_salt(keyring: Keyring) -> None:
    """A second key changes nothing but who may operate; another tenant has another salt."""
    first = await keyring.make(Tenant("anna", limits=TenantLimits(candidates=5)))
    second = await keyring.make("anna", operator=True)
    other = await keyring.make("ben")
    one, two, three = [await keyring.find(key) for key in (first, second, other)]
    assert one is not None
    assert two is not None
    assert three is not None
    assert one.limits == two.limits == TenantLimits(candidates=5)
    assert two.operator
    assert one.cache_salt == two.cache_salt != three.cache_salt
    assert len(one.cache_salt) == 64


async def test_a_revoked_key_is_none_within_a_second(keyring: Keyring) -> None:
    """Also where it was used a moment ago; a tenant's other keys stay."""
    first, second = await keyring.make("anna"), await keyring.make("anna")
    assert await keyring.find(first)
    assert await keyring.find(second)
    assert await keyring.revoke(first) == 1
    await asyncio.sleep(1)
    assert await keyring.find(first) is None
    assert await keyring.find(second)
    (left,) = await keyring.list()
    assert await keyring.revoke(left.id) == 1
    with pytest.raises(KeyringError):
        await keyring.revoke("anna")


@pytest.mark.parametrize("name", ["", "local", "a b", "a:b", "{a}", "x" * 65, "-a"])
async def test_a_name_that_would_not_do_is_refused(keyring: Keyring, name: str) -> None:
    """Names are parts of Redis keys, and the local tenant needs no key."""
    with pytest.raises(KeyringError):
        await keyring.make(name)


@pytest.mark.parametrize("key", ["", "lt-", "lt-" + "a" * 43, "a" * 46, "lt-" + "ä" * 43, "*"])
async def test_what_is_no_key_finds_nobody(keyring: Keyring, key: str) -> None:
    """Neither what doesn't look like one, nor one that was never made."""
    assert await keyring.find(key) is None


async def test_idempotency_keys_are_per_tenant() -> None:
    """The same name is another record with another tenant, and none can name another's."""
    assert Key("k", "d", ANNA).record != Key("k", "d", BEN).record
    assert Key("k", "d", ANNA).record == Key("k", "other", ANNA).record
