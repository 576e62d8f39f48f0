"""The figures an operator asks for: where time goes, what is waste, who spends, what pays.

Labels come from what this service knows: the kinds of work, the strategies by their outermost
name, the reasons why it ends. Tenants are named by their operator; past `MOST_TENANTS` of them,
further ones are counted together as "other".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from planner.domain import Cost
from services.trace import Event, Kind
from services.watch import AnyCall, Called, Ended, Request, strategy_name
from workers.messages import Generate, Generated, Grade

MOST_TENANTS = 256
OTHER = "other"

_STAGE_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
_LEDGER_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 5)
_TOKENS = tuple(2**power for power in range(5, 20))
_CANDIDATES = tuple(2**power for power in range(13))
_TENTHS = tuple(tenth / 10 for tenth in range(1, 11))
_WAYS = ("probe", "stop", "widen", "tree", "decompose", "judge")
_OPERATIONS = ("open", "hold", "commit", "renew", "resize", "close", "account")
_WHY = (
    *("surplus", "deadline", "budget", "cancelled"),
    *("failed", "second_try", "lost", "unreported"),
)
_WORKED_OFF = {"expand": "generate", "grade": "grade", "verify": "verify"}


class Meters:
    """A watcher (see `services.watch`) that counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._declare_time(registry)
        self._declare_waste(registry)
        self._declare_worth(registry)
        self._tenants = Tenants(registry)
        self._begin_at_nothing()

    def _declare_time(self, registry: CollectorRegistry) -> None:
        self._stages = Histogram(
            "longthink_stage_seconds",
            "How long one piece of a request took, by what it was.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._first_result = Histogram(
            "longthink_first_result_seconds",
            "From the beginning of a search to the first task that is done.",
            ["strategy"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._ledger = Histogram(
            "longthink_ledger_seconds",
            "How long a call of the budget ledger took, its wait for a connection included.",
            ["operation"],
            buckets=_LEDGER_SECONDS,
            registry=registry,
        )
        self._ledger_failures = Counter(
            "longthink_ledger_errors",
            "Calls that the budget ledger didn't answer.",
            ["operation"],
            registry=registry,
        )
        self._calls_in_flight = Gauge(
            "longthink_calls_in_flight",
            "Calls that are with the workers.",
            ["kind"],
            registry=registry,
        )

    def _declare_waste(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "longthink_calls",
            "Calls of workers, by how they ended.",
            ["kind", "finish"],
            registry=registry,
        )
        self._retries = Counter(
            "longthink_retries",
            "Calls that were made again as their worker was lost.",
            ["kind"],
            registry=registry,
        )
        self._wasted = Counter(
            "longthink_wasted_tokens",
            "Tokens paid for and of no use, by why.",
            ["kind", "why"],
            registry=registry,
        )
        self._second_tries = Counter(
            "longthink_second_tries",
            "Calls that were sent to another worker, too, as theirs was late.",
            registry=registry,
        )
        self._resumed = Counter(
            "longthink_resumed", "Requests gone on with from their trace.", registry=registry
        )

    def _declare_worth(self, registry: CollectorRegistry) -> None:
        self._answer_tokens = Histogram(
            "longthink_answer_tokens",
            "Completion tokens over all branches, by answered request.",
            ["strategy"],
            buckets=_TOKENS,
            registry=registry,
        )
        self._answer_candidates = Histogram(
            "longthink_answer_candidates",
            "Candidates sampled, by answered request.",
            ["strategy"],
            buckets=_CANDIDATES,
            registry=registry,
        )
        self._confidence = Histogram(
            "longthink_answer_confidence",
            "How likely answers are right, as they say themselves.",
            ["strategy"],
            buckets=_TENTHS,
            registry=registry,
        )
        self._decisions = Counter(
            "longthink_decisions", "What `auto` decided to do next.", ["what"], registry=registry
        )

    def _begin_at_nothing(self) -> None:
        """Have what seldom happens at 0, not missing: so its first time is a rise, too."""
        for operation in _OPERATIONS:
            self._ledger_failures.labels(operation)
        for work in _WORKED_OFF.values():
            self._retries.labels(work)
        for why in _WHY:
            for kind in ("completion", "reward"):
                self._wasted.labels(kind, why)
        for finish in ("failed", "lost", "unreported"):
            for work in ("generate", "grade"):
                self._calls.labels(work, finish)

    # What is measured where it happens

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside, however it ends."""
        began = monotonic()
        try:
            yield
        finally:
            self._stages.labels(name).observe(monotonic() - began)

    def ledger_took(self, operation: str, seconds: float) -> None:
        """The ledger was called."""
        self._ledger.labels(operation).observe(seconds)

    def ledger_failed(self, operation: str) -> None:
        """And didn't answer."""
        self._ledger_failures.labels(operation).inc()

    def in_flight(self, call: AnyCall, change: int) -> None:
        """One more call is with the workers, or one less."""
        self._calls_in_flight.labels(_kind(call)).inc(change)

    def answered(self, strategy: str, spent: Cost, confidence: float) -> None:
        """A request was answered, and something was spent on that."""
        strategy = strategy_name(strategy)
        self._answer_tokens.labels(strategy).observe(spent.completion_tokens)
        self._answer_candidates.labels(strategy).observe(spent.candidates)
        self._confidence.labels(strategy).observe(confidence)

    def booked(self, tenant: str, status: int, spent: Cost, times: int = 1) -> None:
        """A request of a tenant is over, or so many are, and this much is new to its bill."""
        self._tenants.booked(tenant, status, spent, times)

    # What the watch tells

    def began(self, request: Request) -> None:
        """See `services.watch.Watcher`."""
        self._resumed.inc(request.resumed)

    def said(self, request: Request, event: Event) -> None:
        """See `services.watch.Watcher`."""
        self._second_tries.inc(event.kind is Kind.HEDGED)
        if event.kind is Kind.DECIDED:
            what = event.data["what"]
            self._decisions.labels(what if what in _WAYS else OTHER).inc()

    def called(self, call: Called) -> None:
        """See `services.watch.Watcher`."""
        self._calls.labels(call.kind, call.finish).inc()
        self._stages.labels(call.kind).observe(call.ended - call.sent)
        if call.written_off:
            self._wasted.labels(_tokens(call.call), call.finish).inc(call.written_off)

    def ended(self, request: Request, task: Ended) -> None:
        """See `services.watch.Watcher`."""
        if task.asked is not None and task.calls:
            self._stages.labels("wait").observe(max(0.0, task.calls[0].sent - task.asked))
        if not request.answered and task.told["status"] == "done":
            self._first_result.labels(request.strategy).observe(task.ended - request.began)
        lost = sum(call.finish == "lost" for call in task.calls)
        again = min(lost, len(task.calls) - 1)
        if again > 0:
            self._retries.labels(_WORKED_OFF[task.kind]).inc(again)
        if (why := _waste(request, task)) is not None:
            self._throw_away(task, why)
        elif task.told["status"] == "done":
            self._beaten(task.calls)

    def closed(self, request: Request, said: Mapping[str, Any] | None) -> None:
        """See `services.watch.Watcher`."""
        if said is not None:
            self._stages.labels("select").observe(said["choosing_seconds"])

    def over(self, request: Request) -> None:
        """See `services.watch.Watcher`. A call that ends after its task was beaten by another."""
        for calls in request.calls.values():
            self._beaten(calls)

    def _beaten(self, calls: Iterable[Called]) -> None:
        """Count what calls made that were given up as another did the same sooner."""
        for call in calls:
            if isinstance(call.made, Generated) and call.finish == "cancelled":
                tokens = call.made.completion_tokens
                self._wasted.labels("completion", "second_try").inc(tokens)

    def _throw_away(self, task: Ended, why: str) -> None:
        """Count what a task of no use took, but for what was counted as lost with its worker."""
        cost = task.told["cost"]
        for kind, name in (("completion", "completion_tokens"), ("reward", "reward_tokens")):
            lost = sum(it.written_off for it in task.calls if _tokens(it.call) == kind)
            if (tokens := cost[name] - lost) > 0:
                self._wasted.labels(kind, why).inc(tokens)


class Tenants:
    """Who spends. The first `MOST_TENANTS` have names of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._known: set[str] = set()
        self._requests = Counter(
            "longthink_tenant_requests",
            "Requests for an answer, by who asked.",
            ["tenant", "status"],
            registry=registry,
        )
        self._tokens = Counter(
            "longthink_tenant_tokens",
            "Tokens over all branches, by who asked; cached ones are part of the prompt's.",
            ["tenant", "kind"],
            registry=registry,
        )
        self._micro_usd = Counter(
            "longthink_tenant_micro_usd",
            "Spent, in millionths of a US dollar, by who asked.",
            ["tenant"],
            registry=registry,
        )

    def booked(self, tenant: str, status: int, spent: Cost, times: int) -> None:
        """See `Meters.booked`."""
        if tenant not in self._known:
            if len(self._known) >= MOST_TENANTS:
                tenant = OTHER
            else:
                self._known.add(tenant)
        self._requests.labels(tenant, str(status)).inc(times)
        for kind in ("prompt", "cached", "completion", "reward"):
            self._tokens.labels(tenant, kind).inc(getattr(spent, f"{kind}_tokens"))
        self._micro_usd.labels(tenant).inc(spent.micro_usd)


def _waste(request: Request, task: Ended) -> str | None:
    """Why what a task made is of no use; None where it is of use, or may still be."""
    match task.told["status"]:
        case "failed":
            return "failed"
        case "cancelled" if not request.left:
            return task.why or "surplus"
        case _:
            return None


def _kind(call: AnyCall) -> str:
    match call:
        case Generate():
            return "generate"
        case Grade():
            return "grade"
        case _:
            return "verify"


def _tokens(call: AnyCall) -> str:
    """What kind of tokens a call takes."""
    return "reward" if isinstance(call, Grade) else "completion"
