"""What the service says of itself: log lines and Prometheus metrics.

Neither ever holds a prompt, an answer or a key, and the labels of a metric come from what this
service knows, never from what a client wrote, so that their number is bounded.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, TypeAlias

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from planner.domain import Cost
from services.reasoning import Reply

LogFormat: TypeAlias = Literal["json", "text"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


def configure_logging(form: LogFormat = "json", level: LogLevel = "info") -> None:
    """Have structlog write to standard error, a line an event, as JSON or for people.

    Every line carries what is bound to the request it belongs to, its id first of all. Of an
    exception it shows where it came from, and what it says only at `debug`: the message of an
    exception may quote a prompt.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _Raised(reveal=threshold <= logging.DEBUG),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
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


def _new(reply: Reply) -> Cost:
    """What was spent and isn't booked yet with another try of the same request."""
    before = asdict(reply.paid_before)
    return Cost(**{name: max(0, it - before[name]) for name, it in asdict(reply.spent).items()})


class Telemetry:
    """The metrics of one service, in a registry of its own, and its log."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
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
        self._told_of_loss = False

    def began(self) -> None:
        """A run was started."""
        self._in_flight.inc()

    def progressed(self, strategy: str, seconds: float) -> None:
        """A stream showed its first sign of work."""
        self._first_progress.labels(strategy).observe(seconds)

    def ended(self, end: Ended) -> None:
        """A run is over, whether or not anybody waited for it."""
        self._in_flight.dec()
        self._seconds.labels(end.strategy).observe(end.seconds)
        self._cancelled.labels(end.strategy).inc(end.cancelled_calls)
        stopped, spent = None, {}
        if end.reply is not None:
            stopped, spent = end.reply.outcome.stopped, self._spend(end.reply)
        self._requests.labels(end.strategy, stopped or "", str(end.status)).inc()
        self.log.info(
            "answered" if end.status < 400 else "failed",
            request_id=end.request_id,
            status=end.status,
            code=end.code,
            stream=end.stream,
            strategy=end.strategy,
            stopped=stopped,
            seconds=round(end.seconds, 4),
            **spent,
        )

    def refused(self, *, status: int, code: str) -> None:
        """A request ended before anything was started for it."""
        self._requests.labels("", "", str(status)).inc()
        if code == "ledger_unavailable":
            self._ledger_refusals.inc()
        self.log.info("refused", status=status, code=code)

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

    def metrics(self) -> str:
        """The registry in Prometheus's text format."""
        return generate_latest(self.registry).decode()

    def _spend(self, reply: Reply) -> dict[str, int]:
        spent = _new(reply)
        self._tokens.labels("prompt").inc(spent.prompt_tokens)
        self._tokens.labels("cached").inc(spent.cached_tokens)
        self._tokens.labels("completion").inc(spent.completion_tokens)
        self._tokens.labels("reward").inc(spent.reward_tokens)
        self._candidates.labels(reply.effort.strategy).inc(spent.candidates)
        self._micro_usd.inc(spent.micro_usd)
        return {
            "candidates": spent.candidates,
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "reward_tokens": spent.reward_tokens,
            "micro_usd": spent.micro_usd,
        }
