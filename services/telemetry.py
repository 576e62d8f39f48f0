"""What the service says of itself: log lines and Prometheus metrics.

Neither ever holds a prompt, an answer or a key, and the labels of a metric come from what this
service knows, never from what a client wrote, so that their number is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from planner.domain import Cost
from services.meters import Meters
from services.run import Reply
from services.tenants import LOCAL
from services.watch import Watch, strategy_name

if TYPE_CHECKING:
    from services.spans import Spans

LogFormat: TypeAlias = Literal["json", "text"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


def configure_logging(
    form: LogFormat = "json",
    level: LogLevel = "info",
    *,
    content: bool = False,
    to: TextIO | None = None,
) -> None:
    """Have structlog write to a file, or standard error; a line an event, as JSON or for people.

    Every line carries what is bound to the request it belongs to, its id first of all. Of an
    exception it shows where it came from, and what it says only at `debug` or with `content`: the
    message of an exception may quote a prompt.
    """
    to = to or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=to.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _Raised(reveal=content or threshold <= logging.DEBUG),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # Not by print, in whose place Serve has put one of its own.
        logger_factory=structlog.WriteLoggerFactory(file=to),
        cache_logger_on_first_use=False,
    )


class _Raised:
    """Puts the exception of an event into its words: its type, where it was raised, its causes."""

    def __init__(self, *, reveal: bool) -> None:
        self._reveal = reveal

    def __call__(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """The event with `exc_info` told as `raised`."""
        error = event.pop("exc_info", None)
        if error is True:
            error = sys.exc_info()[1]
        if isinstance(error, BaseException):
            event["raised"] = [self._tell(each) for each in _chain(error)]
        return event

    def _tell(self, error: BaseException) -> dict[str, Any]:
        told: dict[str, Any] = {"type": type(error).__name__, "at": _frames(error.__traceback__)}
        if self._reveal:
            told["message"] = str(error)
        return told


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and what it came from, as a traceback shows it; each once."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def _frames(trace: TracebackType | None) -> list[str]:
    return [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(trace, limit=-8)]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request for an answer ended. `seconds` is how long it took, to the end of its run."""

    request_id: str
    status: int
    code: str | None
    stream: bool
    seconds: float
    strategy: str
    reply: Reply | None
    cancelled_calls: int
    tenant: str = LOCAL.id
    question: str = ""


def _confidence(reply: Reply) -> float:
    """How likely the answer is right, as the reply says it."""
    return reply.outcome.confidence if reply.calibrated is None else reply.calibrated


def _new(reply: Reply) -> Cost:
    """What was spent and isn't booked yet with another try of the same request."""
    before = asdict(reply.paid_before)
    return Cost(**{name: max(0, it - before[name]) for name, it in asdict(reply.spent).items()})


class Telemetry:
    """The metrics of one service, in a registry of its own, and its log."""

    def __init__(self, *, log_content: bool = False) -> None:
        """With `log_content`, the log has questions and answers."""
        self.registry = registry = CollectorRegistry()
        self.spans: Spans | None = None
        self._log_content = log_content
        ProcessCollector(registry=registry)
        self.meters = Meters(registry)
        self.watch = Watch([self.meters])
        self.log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
        self._requests = Counter(
            "longthink_requests",
            "Requests for an answer; no strategy or stop where they were refused.",
            ["strategy", "stopped", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "longthink_request_seconds",
            "From the request to the end of its run.",
            ["strategy"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_progress = Histogram(
            "longthink_first_progress_seconds",
            "From a streaming request to the first progress or token sent.",
            ["strategy"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "longthink_tokens",
            "Tokens over all branches; cached ones are part of the prompt's.",
            ["kind"],
            registry=registry,
        )
        self._candidates = Counter(
            "longthink_candidates", "Candidates sampled.", ["strategy"], registry=registry
        )
        self._cancelled = Counter(
            "longthink_cancelled_calls",
            "Calls of workers that a search no longer wanted.",
            ["strategy"],
            registry=registry,
        )
        self._micro_usd = Counter(
            "longthink_micro_usd", "Spent, in millionths of a US dollar.", registry=registry
        )
        self._ledger_refusals = Counter(
            "longthink_ledger_refusals",
            "Requests refused as nothing could be metered.",
            registry=registry,
        )
        self._in_flight = Gauge(
            "longthink_requests_in_flight", "Runs that have not ended.", registry=registry
        )
        self._engines_unheard = Counter(
            "longthink_engine_metrics_unavailable",
            "Scrapes that lack the metrics of the engines.",
            registry=registry,
        )
        self._events_lost = Counter(
            "longthink_trace_events_lost",
            "Events of traces that Redis didn't take.",
            registry=registry,
        )
        self._queue = Gauge(
            "longthink_queue_requests", "Requests that wait for their turn.", registry=registry
        )
        self._queued_seconds = Histogram(
            "longthink_queue_seconds",
            "What requests that began had waited for their turn.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._turned_away = Counter(
            "longthink_admission_refusals",
            "Requests refused before any work, as they would have waited for too long.",
            ["reason"],
            registry=registry,
        )
        self._repeats = Counter(
            "longthink_repeated_refusals",
            "Of them, those refused before Serve's proxy, as others like them had just been.",
            registry=registry,
        )
        self._admitted = Gauge(
            "longthink_admitted_candidates",
            "Candidates that the requests under way are expected to draw.",
            registry=registry,
        )
        self._limit = Gauge(
            "longthink_admission_limit",
            "Candidates that may be under way at present.",
            registry=registry,
        )
        self._tasks = Gauge(
            "longthink_asyncio_tasks",
            "Tasks of the event loop that answers requests.",
            registry=registry,
        )
        self._told_of_loss = False
        self._spans_lost = Counter(
            "longthink_spans_lost", "Spans that couldn't be sent.", registry=registry
        )
        self._ready = Gauge(
            "longthink_ready",
            "Whether this part of the service answers (1) or not (0).",
            ["part"],
            registry=registry,
        )
        self._wanted: Mapping[str, int] = {}
        self._parts: set[str] = set()
        self._engines = Gauge(
            "longthink_engines",
            "Engines, by their kind: those that answer, and how many there should be.",
            ["kind", "state"],
            registry=registry,
        )

    def trace(self, spans: Callable[[Callable[[int], None]], Spans]) -> None:
        """Have spans made, too, by what `spans` makes, given what hears of those that are lost."""
        self.spans = spans(self._spans_lost.inc)
        self.watch = Watch([self.meters, self.spans])

    def describe(self, version: str, model: str, engines: Mapping[str, int]) -> None:
        """Say what runs here: `engines` is how many there should be of each kind."""
        Info("longthink_build", "What runs here.", registry=self.registry).info(
            {"version": version, "model": model}
        )
        for kind, count in engines.items():
            self._engines.labels(kind, "wanted").set(count)
        self._wanted = engines

    def stands(self, parts: Mapping[str, bool], replicas: Iterable[str]) -> None:
        """Say which parts answer, and which engines, by the names of their replicas."""
        self._parts |= parts.keys()
        for part in self._parts:
            self._ready.labels(part).set(parts.get(part, False))
        answering = Tally(name.partition("-")[0] for name in replicas)
        for kind in self._wanted:
            self._engines.labels(kind, "answering").set(answering[kind])

    def left_alone(self, replicas: Iterable[str]) -> None:
        """Say which engines get no work, as they failed, by the names of their replicas."""
        alone = Tally(name.partition("-")[0] for name in replicas)
        for kind in self._wanted:
            self._engines.labels(kind, "left alone").set(alone[kind])

    def admitted(self, waited: float) -> None:
        """A request may begin, after so many seconds in the queue."""
        self._queued_seconds.observe(waited)

    def turned_away(self, reason: str, times: int = 1) -> None:
        """A request wasn't admitted, or so many weren't."""
        self._turned_away.labels(reason).inc(times)

    def load(self, waiting: int, running: float, limit: float) -> None:
        """How many requests wait, how many candidates run and may run."""
        self._queue.set(waiting)
        self._admitted.set(running)
        self._limit.set(limit)

    def began(self) -> None:
        """A run was started."""
        self._in_flight.inc()

    def progressed(self, strategy: str, seconds: float) -> None:
        """A stream showed its first sign of work."""
        self._first_progress.labels(strategy_name(strategy)).observe(seconds)

    def ended(self, end: Ended) -> None:
        """A run is over, whether or not anybody waited for it."""
        self._in_flight.dec()
        strategy = strategy_name(end.strategy)
        self._seconds.labels(strategy).observe(end.seconds)
        self._cancelled.labels(strategy).inc(end.cancelled_calls)
        stopped, spent = None, {}
        if end.reply is None:
            self.meters.booked(end.tenant, end.status, Cost())
            self.watch.failed(end.request_id)
        else:
            stopped, spent = end.reply.outcome.stopped, self._spend(end, end.reply)
        self._requests.labels(strategy, stopped or "", str(end.status)).inc()
        self.log.info(
            "answered" if end.status < 400 else "failed",
            request_id=end.request_id,
            tenant=end.tenant,
            status=end.status,
            code=end.code,
            stream=end.stream,
            strategy=end.strategy,
            stopped=stopped,
            seconds=round(end.seconds, 4),
            **spent,
            **self._content(end),
        )

    def refused(self, *, status: int, code: str, tenant: str = LOCAL.id) -> None:
        """A request ended before anything was started for it."""
        self._requests.labels("", "", str(status)).inc()
        self.meters.booked(tenant, status, Cost())
        if code == "ledger_unavailable":
            self._ledger_refusals.inc()
        self.log.info("refused", status=status, code=code)

    def repeated(self, reason: str, *, status: int, times: int, tenant: str) -> None:
        """So many requests were refused in front of the edge, as one had been by admission."""
        self.turned_away(reason, times)
        self._repeats.inc(times)
        self._requests.labels("", "", str(status)).inc(times)
        self.meters.booked(tenant, status, Cost(), times)
        self.log.info("refused before the proxy", status=status, code=reason, times=times)

    def engines_unheard(self, error: Exception) -> None:
        """A scrape has to do without the engines."""
        self._engines_unheard.inc()
        self.log.warning("engine metrics unavailable", exc_info=error)

    def events_lost(self, count: int, error: Exception) -> None:
        """Traces lack so many events. The log tells of the first; all are counted."""
        self._events_lost.inc(count)
        if not self._told_of_loss:
            self._told_of_loss = True
            self.log.warning(
                "trace events lost; longthink_trace_events_lost_total counts them", exc_info=error
            )

    def scraped(self, parts: Mapping[str, bool], replicas: Iterable[str]) -> str:
        """The metrics at this moment, when these parts and these engines' replicas answer."""
        self.stands(parts, replicas)
        self._tasks.set(len(asyncio.all_tasks()))
        return self.metrics()

    def metrics(self) -> str:
        """The registry in Prometheus's text format."""
        return generate_latest(self.registry).decode()

    def _content(self, end: Ended) -> dict[str, str | None]:
        """What was asked and answered, where the log is to have it."""
        if not self._log_content:
            return {}
        best = None if end.reply is None else end.reply.outcome.best
        return {"question": end.question, "reply": None if best is None else best.text}

    def _spend(self, end: Ended, reply: Reply) -> dict[str, int]:
        spent = _new(reply)
        self.meters.booked(end.tenant, end.status, spent)
        if spent != Cost():
            self.meters.answered(reply.effort.strategy, reply.spent, _confidence(reply))
        self._tokens.labels("prompt").inc(spent.prompt_tokens)
        self._tokens.labels("cached").inc(spent.cached_tokens)
        self._tokens.labels("completion").inc(spent.completion_tokens)
        self._tokens.labels("reward").inc(spent.reward_tokens)
        self._candidates.labels(strategy_name(reply.effort.strategy)).inc(spent.candidates)
        self._micro_usd.inc(spent.micro_usd)
        return {
            "candidates": spent.candidates,
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "reward_tokens": spent.reward_tokens,
            "micro_usd": spent.micro_usd,
        }
