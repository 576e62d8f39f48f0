"""What tenants may spend and do at a time holds, whoever asks at once, dies, or asks twice."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from secrets import token_hex
from time import monotonic

import pytest
from redis.asyncio import Redis

from planner.domain import Budget, Cost, Message, Prices, Query, Sampling
from planner.effort import Options, settle
from planner.errors import LedgerUnavailable
from planner.ports import Account, Commit, Hold
from services.allowance import Allowance, Allowances, Need, OverLimit, need
from services.allowance.need import DIMENSIONS
from services.budget import RedisLedger
from services.redis_server import RedisServer
from services.tenants import LOCAL, Tenant, TenantLimits

NOTHING = Budget(completion_tokens=0, reward_tokens=0, candidates=0, micro_usd=0)
FREE = 1_000_000


def anna(**limits: float) -> Tenant:
    """A tenant with these limits."""
    return Tenant("anna", limits=TenantLimits(**limits))  # type: ignore[arg-type]


def tokens(most: int, least: int | None = None, *, at_once: int = 1) -> Need:
    """A request that names so many completion tokens, all of which it needs unless said."""
    return Need(
        replace(NOTHING, completion_tokens=most),
        replace(NOTHING, completion_tokens=most if least is None else least),
        frozenset(DIMENSIONS),
        at_once,
    )


@pytest.fixture
def allowances(redis_client: Redis, ledger: RedisLedger) -> Allowances:
    """Allowances on the empty Redis, which is patient on a busy machine."""
    return Allowances(redis_client, ledger, patience_seconds=20)


@pytest.fixture
def brief(redis_client: Redis, ledger: RedisLedger) -> Allowances:
    """The same, with leases that run out almost at once."""
    return Allowances(redis_client, ledger, lease_seconds=0.05, patience_seconds=20)


async def had(allowances: Allowances, tenant: Tenant, op: str, needed: Need) -> Allowance:
    """What was set aside."""
    allowance = await allowances.reserve(tenant, op, needed)
    assert allowance is not None
    return allowance


async def refused(allowances: Allowances, tenant: Tenant, needed: Need) -> OverLimit:
    """Why nothing was."""
    with pytest.raises(OverLimit) as caught:
        await allowances.reserve(tenant, token_hex(4), needed)
    return caught.value


async def test_a_tenant_without_limits_sets_nothing_aside(allowances: Allowances) -> None:
    """The local tenant isn't counted."""
    assert await allowances.reserve(LOCAL, "one", tokens(FREE)) is None
    usage = await allowances.usage(LOCAL)
    assert usage.requests.limit is None


async def test_what_is_set_aside_is_nobody_elses_until_it_comes_back(
    allowances: Allowances,
) -> None:
    """A request gets what there is, the next what it leaves, and what wasn't spent comes back."""
    tenant = anna(completion_tokens=100)
    first = await had(allowances, tenant, "one", tokens(70))
    second = await had(allowances, tenant, "two", tokens(70, 20))
    assert (first.budget.completion_tokens, second.budget.completion_tokens) == (70, 30)
    over = await refused(allowances, tenant, tokens(1))
    assert (over.limit, over.of_quota) == ("completion_tokens", True)
    assert over.retry_seconds is not None
    await first.settle(Cost(completion_tokens=10))
    usage = (await allowances.usage(tenant)).window["completion_tokens"]
    assert (usage.spent, usage.held, usage.left) == (10, 30, 60)
    await had(allowances, tenant, "three", tokens(60))


async def test_what_no_limit_was_named_of_leaves_half(allowances: Allowances) -> None:
    """A request that says nothing of tokens leaves room for another beside it."""
    tenant = anna(completion_tokens=100)
    silent = replace(tokens(1000, 5), said=frozenset[str]())
    first = await had(allowances, tenant, "one", silent)
    second = await had(allowances, tenant, "two", silent)
    assert (first.budget.completion_tokens, second.budget.completion_tokens) == (50, 25)
    assert first.limited == {"completion_tokens"}


async def test_what_was_spent_counts_for_a_window_and_no_more(allowances: Allowances) -> None:
    """It is refused until then, and Retry-After says when: not sooner, not much later."""
    tenant = anna(completion_tokens=100, window_seconds=1)
    spent = monotonic()
    await (await had(allowances, tenant, "one", tokens(100))).settle(Cost(completion_tokens=100))
    over = await refused(allowances, tenant, tokens(1))
    assert over.retry_seconds is not None
    assert 0.9 < over.retry_seconds + (monotonic() - spent) < 30
    await asyncio.sleep(over.retry_seconds)
    assert monotonic() - spent >= 1
    await had(allowances, tenant, "two", tokens(100))


async def test_more_than_a_whole_window_is_never_had(allowances: Allowances) -> None:
    """It is said, rather than that it be tried again."""
    over = await refused(allowances, anna(completion_tokens=100), tokens(200))
    assert over.retry_seconds is None
    assert "ask for less" in str(over)


async def test_requests_and_candidates_at_a_time(allowances: Allowances) -> None:
    """So many may be under way; the last gets the candidates that are left."""
    tenant = anna(requests=2, candidates_at_once=10)
    first = await had(allowances, tenant, "one", tokens(0, at_once=8))
    second = await had(allowances, tenant, "two", tokens(0, at_once=8))
    assert (first.candidates_at_once, second.candidates_at_once) == (8, 2)
    over = await refused(allowances, tenant, tokens(0))
    assert (over.limit, over.of_quota) == ("requests", False)
    await second.settle(Cost())
    await had(allowances, tenant, "three", tokens(0, at_once=2))
    more = replace(tenant, limits=TenantLimits(candidates_at_once=10))
    assert (await refused(allowances, more, tokens(0))).limit == "candidates_at_once"


async def test_requests_come_at_the_rate_and_in_bursts(allowances: Allowances) -> None:
    """A burst at once, then one when its time has come; another tenant isn't held up by that."""
    tenant = anna(per_second=2.0, burst=3)
    for op in "abc":
        await had(allowances, tenant, op, tokens(0))
    over = await refused(allowances, tenant, tokens(0))
    assert over.limit == "rate"
    assert over.retry_seconds is not None
    assert 0 < over.retry_seconds <= 0.5
    await had(allowances, Tenant("ben", limits=tenant.limits), "d", tokens(0))
    await asyncio.sleep(over.retry_seconds)
    await had(allowances, tenant, "e", tokens(0))


async def test_everything_may_be_said_twice(allowances: Allowances) -> None:
    """A reply that was lost on the wire takes nothing twice, and gives nothing twice."""
    tenant = anna(completion_tokens=100, per_second=1.0)
    first = await had(allowances, tenant, "one", tokens(60))
    again = await had(allowances, tenant, "one", tokens(60))
    assert first.budget == again.budget
    for _ in range(3):
        await first.settle(Cost(completion_tokens=40))
    used = (await allowances.usage(tenant)).window["completion_tokens"]
    assert (used.spent, used.held) == (40, 0)
    await first.settle(Cost(completion_tokens=30))
    assert (await allowances.usage(tenant)).window["completion_tokens"].spent == 30


async def test_a_request_that_is_taken_up_again_pays_what_is_new(allowances: Allowances) -> None:
    """What it was charged before counts towards what it asks for."""
    tenant = anna(completion_tokens=100)
    await (await had(allowances, tenant, "one", tokens(80))).settle(Cost(completion_tokens=50))
    again = await had(allowances, tenant, "one", tokens(80))
    used = (await allowances.usage(tenant)).window["completion_tokens"]
    assert (used.spent, used.held) == (50, 30)
    await again.settle(Cost(completion_tokens=75))
    used = (await allowances.usage(tenant)).window["completion_tokens"]
    assert (used.spent, used.held) == (75, 0)


async def test_what_a_dead_holder_had_comes_back_but_what_it_spent(
    brief: Allowances, ledger: RedisLedger
) -> None:
    """Whoever asks next finds it settled with what the ledger knows of it."""
    tenant = anna(completion_tokens=100)
    held = await had(brief, tenant, "dead", tokens(100))
    await ledger.open("dead", held.budget)
    await ledger.hold("dead", (Hold("call", Cost(completion_tokens=60)),))
    await ledger.commit("dead", (Commit("call", Cost(completion_tokens=25)),))
    await asyncio.sleep(0.1)
    used = (await brief.usage(tenant)).window["completion_tokens"]
    assert (used.spent, used.held) == (25, 0)
    await (await had(brief, tenant, "next", tokens(75))).settle(Cost())
    assert not await brief.renew(tenant, "dead")
    # Had it only been away, it would pay for the rest that it spent.
    await held.settle(Cost(completion_tokens=35))
    assert (await brief.usage(tenant)).window["completion_tokens"].spent == 35


async def test_one_that_still_holds_of_its_own_budget_is_not_given_up(
    brief: Allowances, ledger: RedisLedger
) -> None:
    """It may be alive, and spend that; when it has let go, it is settled with what it spent."""
    tenant = anna(completion_tokens=100)
    held = await had(brief, tenant, "slow", tokens(100))
    await ledger.open("slow", held.budget)
    await ledger.hold("slow", (Hold("call", Cost(completion_tokens=60)),))
    await asyncio.sleep(0.1)
    assert (await brief.usage(tenant)).window["completion_tokens"].held == 100
    await ledger.commit("slow", (Commit("call", Cost(completion_tokens=55)),))
    async with asyncio.timeout(20):
        while (used := (await brief.usage(tenant)).window["completion_tokens"]).held:
            await asyncio.sleep(0.05)
    assert used.spent == 55


async def test_a_ledger_out_of_reach_settles_nobody(
    brief: Allowances, ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a dead holder had spent can't be known then: whoever looks hears that."""

    async def away(_: str) -> Account:
        raise LedgerUnavailable("away")

    tenant = anna(completion_tokens=100)
    await had(brief, tenant, "dead", tokens(60))
    await asyncio.sleep(0.1)
    monkeypatch.setattr(ledger, "account", away)
    with pytest.raises(LedgerUnavailable):
        await brief.usage(tenant)


async def test_one_that_died_before_it_began_pays_nothing(brief: Allowances) -> None:
    """Its budget was never opened, so nothing was spent of it."""
    tenant = anna(completion_tokens=100)
    await had(brief, tenant, "dead", tokens(60))
    await asyncio.sleep(0.1)
    used = (await brief.usage(tenant)).window["completion_tokens"]
    assert (used.spent, used.held) == (0, 0)


async def test_what_nobody_knows_is_charged_whole(redis_client: Redis, ledger: RedisLedger) -> None:
    """A dead holder whose budget the ledger has forgotten may have spent all that it held."""
    brief = Allowances(
        redis_client, ledger, lease_seconds=0.05, ttl_seconds=0.05, patience_seconds=20
    )
    tenant = anna(completion_tokens=100)
    await had(brief, tenant, "dead", tokens(60))
    await asyncio.sleep(0.2)
    used = (await brief.usage(tenant)).window["completion_tokens"]
    assert (used.spent, used.held) == (60, 0)


async def test_a_lease_is_kept_while_its_holder_lives(
    redis_client: Redis, ledger: RedisLedger
) -> None:
    """And where it was lost all the same, the holder hears of it."""
    allowances = Allowances(redis_client, ledger, lease_seconds=0.6, patience_seconds=20)
    tenant, lost = anna(requests=1), asyncio.Event()
    held = await had(allowances, tenant, "one", tokens(0))
    async with held.kept(lost.set):
        for _ in range(3):
            await asyncio.sleep(0.4)
            assert (await refused(allowances, tenant, tokens(0))).limit == "requests"
        await allowances.settle(tenant, "one", None)
        async with asyncio.timeout(10):
            await lost.wait()


async def test_many_at_once_never_overspend(redis_url: str) -> None:
    """Two hundred at a time, from four clients, spending all they get: the window holds."""
    tenant = anna(completion_tokens=5_000, candidates=300, candidates_at_once=64)
    clients = [Redis.from_url(redis_url) for _ in range(4)]
    dice, spent, refusals = random.Random(3), [0, 0], 0

    async def ask(number: int) -> None:
        nonlocal refusals
        allowances = Allowances(
            clients[number % 4], RedisLedger(clients[number % 4]), patience_seconds=60
        )
        most = replace(NOTHING, completion_tokens=dice.randint(1, 90), candidates=4)
        least = replace(NOTHING, completion_tokens=1, candidates=1)
        needed = Need(most, least, frozenset(DIMENSIONS), dice.randint(1, 8))
        try:
            allowance = await had(allowances, tenant, f"op{number}", needed)
        except OverLimit:
            refusals += 1
            return
        await asyncio.sleep(dice.random() / 50)
        budget = allowance.budget
        cost = Cost(
            completion_tokens=dice.randint(0, budget.completion_tokens or 0),
            candidates=budget.candidates or 0,
        )
        spent[0] += cost.completion_tokens
        spent[1] += cost.candidates
        await allowance.settle(cost)

    for batch in range(4):
        await asyncio.gather(*(ask(batch * 200 + number) for number in range(200)))
    usage = await Allowances(clients[0], RedisLedger(clients[0]), patience_seconds=60).usage(tenant)
    for client in clients:
        await client.aclose()
    assert spent[0] <= 5_000
    assert spent[1] <= 300
    assert refusals > 0
    assert usage.window["completion_tokens"].spent == spent[0]
    assert usage.window["candidates"].spent == spent[1]
    assert usage.candidates_at_once.held == usage.requests.held == 0


async def test_without_redis_nobody_gets_anything_and_hears_so_soon() -> None:
    """Nothing is unmetered, and nobody waits for that long."""
    with RedisServer() as server:
        redis = Redis.from_url(server.url)
        allowances = Allowances(redis, RedisLedger(redis))
        tenant = anna(completion_tokens=10)
    began = monotonic()
    with pytest.raises(LedgerUnavailable, match="limits can't be kept"):
        await allowances.reserve(tenant, "one", tokens(1))
    assert monotonic() - began < 5
    await redis.aclose()


@pytest.mark.parametrize("context", [None, 1024])
def test_what_a_request_needs_follows_from_its_effort(context: int | None) -> None:
    """Its own limits where it has some, else more than its candidates take; and one's worth."""
    query = Query((Message("user", "How many?"),), Sampling(max_tokens=200))
    prices = Prices(1, 2, 3)

    def needs(**said: int) -> Need:
        effort = settle(Options(effort="low", budget=Budget(**said)))
        return need(effort, query, context=context, likely=50, prices=prices)

    silent, said = needs(), needs(completion_tokens=30, candidates=2)
    assert silent.said == frozenset()
    assert silent.most.completion_tokens == 4 * 8 * 200
    assert silent.least.completion_tokens == 50
    assert silent.candidates_at_once == 8
    assert said.most.completion_tokens == said.least.completion_tokens == 30
    assert said.said == {"completion_tokens", "candidates"}
    assert said.candidates_at_once == said.most.candidates == 2
    for budget in (silent.most, silent.least, said.most, said.least):
        assert all(getattr(budget, it) is not None for it in DIMENSIONS)


async def test_what_is_said_again_is_taken_off_where_it_was_counted(redis_client: Redis) -> None:
    """Also after the same was said once more, when another slice of the window had begun."""
    allowances = Allowances(redis_client, RedisLedger(redis_client), patience_seconds=20)
    tenant = anna(completion_tokens=100, window_seconds=30)
    one = await had(allowances, tenant, "one", tokens(100))
    await one.settle(Cost(completion_tokens=80))
    await asyncio.sleep(0.6)
    await one.settle(Cost(completion_tokens=80))
    await one.settle(Cost(completion_tokens=30))
    assert (await allowances.usage(tenant)).window["completion_tokens"].spent == 30
