"""The HTTP edge on a real socket, before a reasoner that does what a test tells it to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import httpx
import structlog
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI
from starlette.types import ASGIApp

from planner.domain import Candidate, Cost, Finish, Outcome, Query, Stopped, Vote
from planner.effort import Options, settle
from services.api import Limits, build
from services.api.auth import Find
from services.api.lobby import Lobby
from services.api.proxy import middlewares
from services.api.routes import Usages
from services.gate import Gate
from services.idempotency import Lease
from services.once import Once
from services.reasoning import Reasoner
from services.recent import Recent
from services.resume import Earlier, owner
from services.run import AT_ONCE, Admitted, Reply, Run
from services.telemetry import Telemetry, configure_logging
from services.tenants import LOCAL, Tenant
from services.trace import Event, Kind, Tail, Trace

MODEL = "reference"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "What is 6 x 7?"}]}

OUTCOME = Outcome(
    ranked=(
        Candidate((3,), "6 x 7 = 42\n#### 42", tuple(range(12)), Finish.STOP, score=0.9),
        Candidate((1,), "6 x 7 = 43\n#### 43", tuple(range(11)), Finish.LENGTH, score=0.2),
    ),
    answer="42",
    confidence=0.75,
    votes=(Vote("42", 3, 2.5), Vote("43", 1, 0.2)),
    stopped=Stopped.COMPLETE,
    selector="weighted",
    notes=("a note",),
)
SPENT = Cost(
    prompt_tokens=80,
    cached_tokens=64,
    completion_tokens=47,
    reward_tokens=130,
    candidates=4,
    micro_usd=12_345,
)


class ScriptedRun(Run):
    """A run whose course is the test's own coroutine."""

    def __init__(self, trace_id: str, query: Query, options: Options, play: Play) -> None:
        self.trace = Trace(trace_id)
        self.effort = settle(options)
        self.query = query
        self.options = options
        self.cancelled = asyncio.Event()
        self._course = asyncio.create_task(play(self))

    @property
    def done(self) -> bool:
        """Whether its course is run."""
        return self._course.done()

    async def reply(self) -> Reply:
        """What the course came to."""
        return await asyncio.shield(self._course)

    def heed(self, heard: Callable[[Reply | None], None]) -> None:
        """Have it called when the course is run."""

        def tell(course: asyncio.Task[Reply]) -> None:
            heard(None if course.cancelled() or course.exception() else course.result())

        self._course.add_done_callback(tell)

    def cancel(self, reason: Stopped = Stopped.CANCELLED) -> None:
        """Note that it was asked to end."""
        self.cancelled.set()

    def comes_to(self, outcome: Outcome = OUTCOME, spent: Cost = SPENT) -> Reply:
        """The reply with this outcome."""
        return Reply(self.trace.id, outcome, self.effort, spent, self.effort.budget)


Play: TypeAlias = Callable[[ScriptedRun], Coroutine[Any, Any, Reply]]


async def at_once(run: ScriptedRun) -> Reply:
    """Answer without further ado."""
    return run.comes_to()


async def until_cancelled(run: ScriptedRun) -> Reply:
    """Think until told to stop."""
    await run.cancelled.wait()
    return run.comes_to(replace(OUTCOME, stopped=Stopped.CANCELLED))


class ScriptedReasoner(Reasoner):
    """Starts scripted runs, or refuses to."""

    def __init__(self, play: Play = at_once, refusal: Exception | None = None) -> None:
        self.play = play
        self.refusal = refusal
        self.runs: list[ScriptedRun] = []
        self.begun: asyncio.Queue[ScriptedRun] = asyncio.Queue()
        self.streamed: list[bool] = []
        self.admitted: list[Admitted] = []

    async def start(
        self,
        query: Query,
        options: Options,
        *,
        trace_id: str,
        stream_tokens: bool = False,
        earlier: Earlier | None = None,
        lease: Lease | None = None,
        tenant: Tenant = LOCAL,
        admitted: Admitted = AT_ONCE,
    ) -> Run:
        """Begin the course."""
        if self.refusal is not None:
            raise self.refusal
        run = ScriptedRun(trace_id, query, options, self.play)
        run.tenant = tenant
        self.runs.append(run)
        self.begun.put_nowait(run)
        self.streamed.append(stream_tokens)
        self.admitted.append(admitted)
        return run

    def find(self, trace_id: str) -> Run | None:
        """The run with this trace, until its course is run."""
        found = (run for run in self.runs if run.trace.id == trace_id and not run.done)
        return next(found, None)


class Shelf:
    """Traces in a dict. Each was written to `silent_seconds` ago; `asked` are those to end."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}
        self.silent_seconds = 0.0
        self.listeners = 1
        self.asked: list[str] = []

    def heed(self, end: Callable[[str], object]) -> None:
        """Nobody else asks."""

    async def end(self, trace_id: str) -> bool:
        """Note that it was asked."""
        self.asked.append(trace_id)
        return self.listeners > 0

    async def flush(self) -> None:
        """Everything is there already."""

    async def read(self, trace_id: str) -> list[Event] | None:
        """The events put there."""
        return self.events.get(trace_id)

    async def tail(self, trace_id: str, mark: str | None = None) -> Tail | None:
        """The events after as many as the mark says."""
        events = self.events.get(trace_id)
        if events is None:
            return None
        return Tail(tuple(events[int(mark or 0) :]), str(len(events)), self.silent_seconds)

    async def recent(self, most: int, tenant: Tenant) -> list[Recent]:
        """The requests whose traces are open or closed, the last one first."""
        rows = [
            _row(trace_id, events)
            for trace_id, events in self.events.items()
            if tenant.may_see(owner(events))
        ]
        return rows[::-1][:most]


def _row(trace_id: str, events: list[Event]) -> Recent:
    """What the index says of a trace whose first event opens it."""
    said, closed = events[0].data, [one for one in events if one.kind is Kind.CLOSED]
    outcome = closed[0].data["outcome"] if closed else {}
    return Recent(
        id=trace_id,
        began=1_700_000_000.0,
        question=said["query"]["messages"][-1]["content"],
        strategy=said["effort"]["strategy"],
        under_way=not closed,
        answer=outcome.get("answer"),
        confidence=outcome.get("confidence"),
        stopped=outcome.get("stopped"),
        completion_tokens=closed[0].data["spent"]["completion_tokens"] if closed else None,
        seconds=closed[0].seconds if closed else None,
    )


@dataclass(slots=True)
class Stage:
    """All that a test may set before the service begins."""

    reasoner: ScriptedReasoner = field(default_factory=ScriptedReasoner)
    real: Reasoner | None = None
    """Takes the place of the scripted one."""
    traces: Any = field(default_factory=Shelf)
    engines: dict[str, bool] = field(default_factory=lambda: {"generator": True, "reward": True})
    engine_metrics: Callable[[], Awaitable[list[tuple[str, str]]]] | None = None
    ready: Callable[[], Awaitable[dict[str, bool]]] | None = None
    limits: Limits = field(default_factory=Limits)
    telemetry: Telemetry = field(default_factory=Telemetry)
    once: Once | None = None
    find: Find | None = None
    meterable: Callable[[], Awaitable[None]] | None = None
    usage: Usages | None = None
    gate: Gate | None = None
    lobby: Lobby = field(default_factory=Lobby)
    proxied: bool = False
    """Whether what stands around Ray Serve's proxy stands around it, too."""

    def served(self) -> ASGIApp:
        """The application, and what stands around it."""
        app: ASGIApp = self.app()
        for around in middlewares() if self.proxied else []:
            app = around.cls(app, *around.args, **around.kwargs)
        return app

    def app(self) -> FastAPI:
        """The application as it would be served."""
        return build(
            self.real or self.reasoner,
            model_name=MODEL,
            ready=self.ready or self._ready,
            traces=self.traces,
            engine_metrics=self.engine_metrics or _no_metrics,
            limits=self.limits,
            telemetry=self.telemetry,
            once=self.once,
            find=self.find,
            meterable=self.meterable,
            usage=self.usage,
            gate=self.gate,
            lobby=self.lobby,
        )

    async def _ready(self) -> dict[str, bool]:
        return self.engines


@dataclass(frozen=True, slots=True)
class Service:
    """A service that listens: a plain HTTP client of it, and OpenAI's own."""

    url: str
    http: httpx.AsyncClient
    openai: AsyncOpenAI
    reasoner: ScriptedReasoner
    telemetry: Telemetry


async def _no_metrics() -> list[tuple[str, str]]:
    return []


@asynccontextmanager
async def serving(
    play: Play = at_once, stage: Stage | None = None, retries: int = 0
) -> AsyncIterator[Service]:
    """The edge on a socket of its own, with `play` as the course of every run."""
    configure_logging("json", "error")
    stage = stage or Stage()
    if play is not at_once:
        stage.reasoner.play = play
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(stage.served(), lifespan="off", log_config=None, access_log=False)
        )
        serve = asyncio.create_task(server.serve(sockets=[listener]))
        async with (
            httpx.AsyncClient(base_url=url, timeout=20) as http,
            AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=retries) as openai,
        ):
            yield Service(url, http, openai, stage.reasoner, stage.telemetry)
        server.should_exit = True
        await serve
    structlog.reset_defaults()


async def started(service: Service) -> ScriptedRun:
    """The next run, once it has started."""
    async with asyncio.timeout(5):
        return await service.reasoner.begun.get()


async def cancelled(run: ScriptedRun) -> None:
    """Return when the run was asked to end; fail if it isn't soon."""
    async with asyncio.timeout(1):
        await run.cancelled.wait()


def standing(run: ScriptedRun, finished: int, planned: int, *, tokens: int, leader: int) -> None:
    """Tell how a search stands: `leader` of `finished` candidates say 42, the others 43."""
    votes = [{"answer": "42", "count": leader}, {"answer": "43", "count": finished - leader}]
    run.trace.append(
        Kind.STANDING,
        finished=finished,
        planned=planned,
        running=planned - finished,
        answer="42" if leader else None,
        confidence=0.5,
        votes=votes,
        spent={"completion_tokens": tokens},
    )
