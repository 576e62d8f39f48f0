"""The composition root: the one place that knows every concrete part, and puts them together.

`Service` owns the processes: a redis-server and a Ray cluster where the settings name none, the
engines and the HTTP edge on it. What it started, it stops; what it found, it leaves running.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import ray
from fastapi import FastAPI
from grpc import RpcError  # type: ignore[import-untyped]
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.client import ServeControllerClient
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from redis.exceptions import RedisError

from planner.calibration import Calibration
from planner.domain import Sampling
from planner.effort import settle
from planner.errors import LedgerUnavailable, LongthinkError
from services.admission import Admission
from services.allowance import Allowances
from services.api.app import build
from services.api.limits import Limits
from services.api.lobby import Lobby
from services.budget import RedisLedger, connect
from services.calibration import Calibrations, CalibrationStore, load
from services.driver import Manner
from services.gate import Gate
from services.idempotency import Keys
from services.keyring import Keyring
from services.leftovers import Scratch, SharedMemory, descendants
from services.observed import ObservedLedger, ObservedPool
from services.once import Once
from services.outlook import OutlookStore
from services.reasoning import Reasoner
from services.redis_server import RedisServer
from services.second_tries import SecondTries
from services.settings import REFERENCE, Settings
from services.telemetry import Telemetry, configure_logging
from services.trace import TraceStore
from workers.deployments import generators, one_of, planners, rewards
from workers.pool import ServePool
from workers.verifier import Verifier

if TYPE_CHECKING:
    from services.spans import Spans

APPLICATION = "longthink"
EDGE = "edge"

_SPANS_TO = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
"""Where spans go, if not where all that is told goes."""

_LAST_SPANS_SECONDS = 2.0
"""How long the last spans may take to be sent."""

_ENVIRONMENT = {
    # Calls run in the replica's own event loop: a streaming call over a handle takes 1.4 ms
    # instead of 6.0 (tests/bench).
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # The proxy that takes the requests is not covered by that: 2 ms less a request.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    # Throughput would also have every replica listen on a port of its own, which nobody needs.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    # Ray would run its workers, and the engines in them, behind everything else on the machine.
    "RAY_worker_niceness": "0",
    # Clients must not be able to switch off timeouts and cancellation by a header.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "services.api.proxy:middlewares",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_REPLACED_SECONDS = 90.0
"""In so long a lost engine has been replaced: calls wait for that where there is no other."""

_REPLY_SECONDS = 2.0
"""How long a single reply of Redis is waited for at least: more than it needs to be found away."""
_FOUND_AWAY_SECONDS = 0.1
"""Beyond the time that Redis has to answer, how long it takes to be known as away."""
_LEAST_LEASE_SECONDS = 5.0
"""A runner that says nothing for so long is dead; longer where Redis may take as long itself."""
_LATER_SECONDS = 5.0
"""A replica whose engine hangs should say so before its callers find out by its silence."""
_TOKENS = "RAY_AUTH_MODE"
"""The variable that says whether Ray takes orders only from who has its token. Its ports, and those
of Serve's replicas, listen on all addresses and unpickle what they are sent."""

_OTHERS_SECONDS = 2.0
"""How long a scrape of one edge waits for the other edges' metrics."""

_LAST_SECONDS = 2.0
"""So long before the end of the grace period requests end with the best they have."""
_TIDY_SECONDS = 3.0
"""How long after the grace period the edge may write what it owes and end its processes."""
_AFTER_SECONDS = _TIDY_SECONDS + _LAST_SPANS_SECONDS
_POLL_SECONDS = 0.2
"""How often it is looked whether the process was told to end."""
_OBJECT_STORE_BYTES = 100 << 20
"""Nothing large passes between the processes: Ray's least is plenty."""


class ServiceError(LongthinkError):
    """The service could not be started."""


class Edge:
    """One replica of the HTTP edge, which drives the requests that reach it."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        generator: DeploymentHandle[Any],
        reward: DeploymentHandle[Any] | None = None,
        planner: DeploymentHandle[Any] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        told = settings.telemetry
        configure_logging(
            settings.service.log_format,
            settings.service.log_level,
            content=told.log_content,
            to=sys.__stderr__,  # in the other's place Serve has put a log of its own
        )
        self._settings = settings
        patience = settings.redis.answer_seconds
        self._redis = connect(
            redis_url, answer_seconds=patience, socket_timeout=max(_REPLY_SECONDS, patience)
        )
        self._verifier = Verifier()
        self._pool = ServePool(
            generator,
            reward,
            planner=planner,
            generators=settings.generator.replicas,
            planners=settings.planner.replicas,
            rewards=settings.reward.replicas,
            patience_seconds=_REPLACED_SECONDS,
            silence_seconds=_LATER_SECONDS + settings.longest_silence(),
            verifier=self._verifier,
        )
        self._telemetry = Telemetry(log_content=told.log_content)
        if told.otlp_endpoint is not None or _SPANS_TO in os.environ:
            self._telemetry.trace(partial(_spans, settings))
        self._telemetry.describe(version("longthink"), settings.generator.name, _wanted(settings))
        self._traces = TraceStore(
            self._redis,
            ttl_seconds=settings.redis.ttl_seconds,
            lost=self._telemetry.events_lost,
            seen=self._telemetry.watch.saw,
        )
        ledger = RedisLedger(
            self._redis,
            lease_seconds=settings.redis.lease_seconds,
            ttl_seconds=settings.redis.ttl_seconds,
            patience_seconds=2 * max(_REPLY_SECONDS, patience),
        )
        self._allowances = Allowances(
            self._redis,
            ledger,
            lease_seconds=settings.redis.lease_seconds,
            ttl_seconds=settings.redis.ttl_seconds,
            patience_seconds=patience + _FOUND_AWAY_SECONDS,
        )
        self._keyring = Keyring(self._redis, patience_seconds=patience + _FOUND_AWAY_SECONDS)
        self._reasoner = Reasoner(
            ObservedPool(self._pool, self._telemetry.watch, self._telemetry.meters),
            ObservedLedger(ledger, self._telemetry.meters),
            self._traces,
            Manner(
                prices=settings.price_table(),
                step_delimiter=settings.generator.step_delimiter,
                doubts=settings.generator.doubts,
                aggregate=settings.reward.aggregate,
                lease_seconds=settings.redis.lease_seconds,
            ),
            presets=settings.presets(),
            default_effort=settings.service.default_effort,
            outlooks=OutlookStore(self._redis, settings.generator.name),
            calibrations=Calibrations(
                settings.generator.name, CalibrationStore(self._redis), calibration
            ),
            allowances=self._allowances,
            second_tries=SecondTries(settings.service.hedge_share),
        )
        self._every: DeploymentHandle[Any] = DeploymentHandle(EDGE, APPLICATION)
        self._lobby = Lobby()
        self._hurry = asyncio.Event()
        self._gate = Gate(
            Admission(settings.rules()),
            watcher=self._telemetry,
            one_pass=self._reasoner.one_pass,
            present=self._pool.present,
            # The others may have room.
            hold_seconds=settings.admission.hold_seconds / settings.service.replicas,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve for the application that this replica serves."""
        service, redis = self._settings.service, self._settings.redis
        # All that is there now stays, and need not be gone through in every full collection, which
        # holds up all requests.
        gc.collect()
        gc.freeze()
        return build(
            self._reasoner,
            model_name=self._settings.generator.name,
            ready=self._ready,
            traces=self._traces,
            telemetry=self._telemetry,
            engine_metrics=self._engine_metrics,
            edges=self._edges,
            limits=Limits(
                body_bytes=service.max_body_bytes,
                sampling=Sampling(max_tokens=service.default_max_tokens),
            ),
            settle=partial(
                settle, presets=self._settings.presets(), default=service.default_effort
            ),
            once=Once(
                self._reasoner,
                Keys(
                    self._redis,
                    ttl_seconds=redis.ttl_seconds,
                    lease_seconds=max(_LEAST_LEASE_SECONDS, 2 * redis.answer_seconds),
                ),
                self._traces,
            ),
            find=self._keyring.find if service.keys else None,
            usage=self._allowances.usage,
            meterable=self._meterable,
            gate=self._gate,
            lobby=self._lobby,
        )

    async def counters(self) -> dict[str, dict[str, int]]:
        """The engines' own counters, by replica."""
        return await self._pool.counters()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, let what is under way come to its end, and see it answered.

        All of it in at most so long: what has not ended a little before that is ended with the best
        it has.
        """
        self._lobby.closing = True
        self._gate.close()
        last = min(_LAST_SECONDS, seconds / 2)
        await self._reasoner.finished(seconds - last, self._hurry)
        await self._reasoner.drain(last / 2)
        await self._lobby.emptied(last / 2)
        await self._verifier.close()
        if self._telemetry.spans is not None:
            # A collector that is gone must not hold up the end.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SPANS_SECONDS):
                    await asyncio.to_thread(self._telemetry.spans.shutdown)

    async def hurry(self) -> None:
        """End what is under way with the best it has, now."""
        self._hurry.set()

    async def _ready(self) -> dict[str, bool]:
        return {"engines": await self._pool.ready(), "redis": await self._redis_answers()}

    async def _meterable(self) -> None:
        try:
            await self._redis.pulse.present()
        except RedisError as away:
            raise LedgerUnavailable(f"Redis is away: {away}") from away

    async def _redis_answers(self) -> bool:
        try:
            return bool(await self._redis.ping())
        except RedisError:
            return False

    async def metrics(self, parts: Mapping[str, bool], engines: Sequence[str]) -> tuple[str, str]:
        """This edge's name, and its metrics at a moment when these parts and engines answer."""
        self._telemetry.left_alone(self._pool.breakers())
        name = serve.get_replica_context().replica_id.unique_id
        return name, self._telemetry.scraped(parts, engines)

    async def _engine_metrics(self) -> list[tuple[str, str]]:
        return list((await self._pool.metrics()).items())

    async def _edges(
        self, parts: Mapping[str, bool], engines: Sequence[str]
    ) -> list[tuple[str, str]]:
        """What every edge tells; this one alone where others don't answer in time."""
        if self._settings.service.replicas == 1:
            return [("", (await self.metrics(parts, engines))[1])]
        told: list[tuple[str, str]] = []
        try:
            async with asyncio.timeout(_OTHERS_SECONDS):
                every = self._every.broadcast("metrics", parts, engines)
                answers = await every.results_async(return_exceptions=True)
        except (TimeoutError, RayError, RayServeException) as error:
            self._telemetry.log.warning("edges' metrics unavailable", exc_info=error)
        else:
            told = [one for one in answers if not isinstance(one, BaseException)]
        # One that is being replaced isn't among those that are asked.
        if serve.get_replica_context().replica_id.unique_id not in dict(told):
            told.append(await self.metrics(parts, engines))
        return told


class Service:
    """Everything that runs for one `longthink serve`."""

    def __init__(
        self, settings: Settings, url: str, parts: ExitStack, application: _Application
    ) -> None:
        self.settings = settings
        self.url = url
        self._parts = parts
        self._application = application
        self._over = threading.Event()
        self._wake = threading.Event()
        self._at_once = threading.Event()

    @classmethod
    def start(
        cls,
        settings: Settings,
        *,
        tell: Callable[[str], None] = lambda _: None,
        logs: bool = False,
    ) -> Self:
        """Start what the settings need and return once it answers.

        `tell` is called with a line for each thing that is being started; `logs` has the replicas'
        output on this process's standard error. Raises ServiceError (or what a part raises).
        """
        calibration = _shipped(settings)
        with ExitStack() as parts:
            redis_url = settings.redis.url
            if redis_url is None:
                tell("Redis: starting an embedded redis-server")
                redis_url = parts.enter_context(RedisServer()).url
            if settings.ray.address is None:
                parts.enter_context(Scratch())
            tell(f"Ray: {_where(settings)}")
            parts.enter_context(_Ray(settings, logs=logs))
            if os.environ.get(_TOKENS) != "token":
                tell(
                    f"Ray: whoever reaches this cluster can run code in it, unless {_TOKENS}=token"
                )
            tell("Engines: " + _engines(settings))
            port = settings.service.port or _free_port(settings.service.host)
            application = _Application(settings, redis_url, port, calibration)
            parts.enter_context(application)
            service = cls(settings, settings.service.url(port), parts, application)
            parts.callback(_drain, service)
            service._parts = parts.pop_all()
            return service
        raise AssertionError("unreachable")

    def wait(self, replace: Callable[[], None] | None = None) -> None:
        """Return when the process is told to end by SIGINT or SIGTERM, or `stop` was called.

        On SIGHUP it calls `replace`, by default its own, and goes on; but where that came as the
        terminal was closed, it returns. Under load, a wait without an end was seen not to be woken
        by a signal for 15 seconds, so it looks by itself.
        """
        terminal = _at_terminal()
        handlers = {
            signal.SIGINT: lambda *_: self._end(),
            signal.SIGTERM: lambda *_: self._end(),
            signal.SIGHUP: lambda *_: self._wake.set(),
        }
        before = {one: signal.signal(one, handler) for one, handler in handlers.items()}
        try:
            while True:
                if not self._wake.wait(_POLL_SECONDS):
                    continue
                self._wake.clear()
                if self._over.is_set() or (terminal and not _at_terminal()):
                    return
                (replace or self.replace)()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def replace(self, settings: Settings | None = None) -> None:
        """Put a new replica in the place of each, of the engines and of the edge, one by one.

        New ones go by `settings`, but for where the service listens, and which Ray and Redis it
        uses. Requests in flight go on. Returns once all are replaced; raises ServiceError where the
        new ones don't start: then those that are left of the old ones go on.
        """
        self.settings = _within(self.settings, settings or self.settings)
        self._application.deploy(self.settings, _shipped(self.settings))

    def _end(self) -> None:
        self._over.set()
        self._wake.set()

    def stop(self) -> None:
        """Take nothing new, see requests in flight answered, then stop all that was started.

        They have `service.grace_seconds`, and then end with the best they have; at once when the
        process is told to end once more. Idempotent.
        """
        self._end()
        with self._impatient():
            self._parts.close()

    @property
    def impatient(self) -> bool:
        """Whether the process was told to end once more while it did."""
        return self._at_once.is_set()

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        """While inside, a signal to end means at once. Only a main thread hears of signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            one: signal.signal(one, lambda *_: self._at_once.set())
            for one in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


class _Ray:
    """The Ray cluster, started where the settings name none."""

    def __init__(self, settings: Settings, *, logs: bool) -> None:
        self._settings = settings
        self._logs = logs
        self._sockets: list[Path] = []

    def __enter__(self) -> None:
        self._others = descendants(os.getpid())
        os.environ.update(_ENVIRONMENT)
        address = self._settings.ray.address
        if address is None:
            if os.environ.get(_TOKENS) != "token":
                # Ray makes a token for a cluster of its own unless it is told otherwise.
                os.environ.pop(_TOKENS, None)
            self._start()
        else:
            ray.init(
                address=address,
                log_to_driver=self._logs,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {**_ENVIRONMENT, **_otel()}},
            )

    def _start(self) -> None:
        """Start Ray here. It gives up on itself after 30 s, so a busy machine gets two tries."""
        for last in (False, True):
            try:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    log_to_driver=self._logs,
                    logging_level=logging.ERROR,
                )
            except Exception as error:  # what Ray raises here has no type of its own
                ray.shutdown()
                if last:
                    raise ServiceError(
                        f"Ray did not start on this machine: {error} Is it very busy, or short of "
                        "memory? `longthink doctor` tells what is missing."
                    ) from error
            else:
                self._sockets = [
                    Path(node[name])
                    for node in ray.nodes()
                    for name in ("ObjectStoreSocketName", "RayletSocketName")
                    if name in node
                ]
                return

    def __exit__(self, *exception: object) -> None:
        shared = SharedMemory(self._others)
        ray.shutdown()
        if self._settings.ray.address is None:
            shared.remove()
            for left in self._sockets:
                left.unlink(missing_ok=True)


class _Application:
    """The engines and the edge as one Ray Serve application."""

    def __init__(
        self, settings: Settings, redis_url: str, port: int, calibration: Calibration | None
    ) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._port = port
        self._calibration = calibration
        self._found_serve = False

    def __enter__(self) -> Self:
        settings, host = self._settings, self._settings.service.host
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        if settings.ray.address is not None:
            self._found_serve = _found_serve(host, self._port)
        with ExitStack() as in_vain:
            in_vain.callback(self._delete)
            serve.start(
                proxy_location="HeadOnly",
                http_options=HTTPOptions(host=host, port=self._port),
                logging_config=quiet,
            )
            self.deploy(settings, self._calibration)
            in_vain.pop_all()
        return self

    def deploy(self, settings: Settings, calibration: Calibration | None) -> None:
        """Bring the replicas up; those that there are already are replaced. Raises ServiceError."""
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        generator = generators(settings.generator.options())
        others: dict[str, Any] = {"calibration": calibration}
        if (planner := settings.planner.options()) is not None:
            others["planner"] = planners(planner)
        if (reward := settings.reward.options()) is not None:
            others["reward"] = rewards(reward)
        edge = serve.deployment(
            name=EDGE,
            num_replicas=settings.service.replicas,
            max_surge_percent=one_of(settings.service.replicas),
            ray_actor_options={"num_cpus": 0},
            max_ongoing_requests=10_000,
            graceful_shutdown_timeout_s=settings.service.grace_seconds + _AFTER_SECONDS,
            logging_config=quiet,
        )(serve.ingress()(Edge))
        try:
            serve.run(
                edge.bind(settings, self._redis_url, generator, **others),
                name=APPLICATION,
                route_prefix="/",
                logging_config=quiet,
            )
        except RuntimeError as error:
            raise ServiceError(
                f"The engines or the edge did not start: {error}\n"
                "`longthink doctor` tells what is missing."
            ) from error

    def __exit__(self, *exception: object) -> None:
        self._delete()

    def _delete(self) -> None:
        """Take the application off a cluster that goes on without this process.

        Serve goes with it, if it came with it and nobody else runs anything on it by now.
        """
        if self._settings.ray.address is None or _client() is None:
            return
        serve.delete(APPLICATION)
        if not self._found_serve and not serve.status().applications:
            serve.shutdown()


def _found_serve(host: str, port: int) -> bool:
    """Whether Serve runs on this cluster. Raises ServiceError where it does, and listens elsewhere.

    It would go on doing so, whatever it is told, and perhaps where everybody reaches it.
    """
    client = _client()
    options = None if client is None else client.http_config
    if options is not None and (options.host, options.port) != (host, port):
        raise ServiceError(
            f"Ray Serve runs on this cluster already, and listens on {options.host}:{options.port} "
            f"rather than {host}:{port}. Stop it (`serve shutdown`), or have service.host and "
            "service.port say where it listens."
        )
    return client is not None


def _client() -> ServeControllerClient | None:
    """What knows of Serve on this cluster, where it runs there."""
    return _get_global_client(raise_if_no_controller_running=False)


def _drain(service: Service) -> None:
    """Have the edge end its requests; where it is gone already there is nothing to end."""
    with suppress(RayError, RayServeException, RpcError):
        # Where the environment has Serve's routers run in their callers' loop, there must be one.
        asyncio.run(_drained(service))


async def _drained(service: Service) -> None:
    # One of its own: those that Serve keeps are used once more after this loop.
    handle: DeploymentHandle[Any] = DeploymentHandle(EDGE, APPLICATION)
    until = time.monotonic() + service.settings.service.grace_seconds + _AFTER_SECONDS
    hurried = False
    drained = handle.broadcast("drain", service.settings.service.grace_seconds)
    # One that dies meanwhile has nothing more to end, and the others go on.
    ended = asyncio.ensure_future(drained.results_async(return_exceptions=True))
    while time.monotonic() < until:
        await asyncio.wait((ended,), timeout=_POLL_SECONDS)
        if ended.done():
            return
        if service.impatient and not hurried:
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await handle.broadcast("hurry").results_async(return_exceptions=True)
            hurried = True
            until = min(until, time.monotonic() + _LAST_SECONDS + _AFTER_SECONDS)
    ended.cancel()


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _within(running: Settings, wanted: Settings) -> Settings:
    """The settings that are wanted, as far as a running service can take them on."""
    stays = {name: getattr(running.service, name) for name in ("host", "port")}
    service = wanted.service.model_copy(update=stays)
    fixed = {"redis": running.redis, "ray": running.ray, "service": service}
    return wanted.model_copy(update=fixed)


def _shipped(settings: Settings) -> Calibration | None:
    """The calibration that the profile brings, if it is of the model that is served.

    Raises CalibrationError (or ServiceError for another model's, unless it came with longthink).
    """
    path, model = settings.service.calibration_file, settings.generator.name
    if path is None:
        return None
    found = load(path)
    if found.model == model:
        return found
    if settings.service.calibration == REFERENCE:
        return None
    raise ServiceError(
        f"{path} is the calibration of {found.model}, but the model is {model}: name its own in "
        "service.calibration, or null for none."
    )


def _spans(settings: Settings, lost: Callable[[int], None]) -> Spans:
    """What makes spans. OpenTelemetry's SDK is imported only here, where it is asked for."""
    spans = import_module("services.spans")
    said = settings.telemetry
    made: Spans = spans.Spans(
        spans.exporting(said.otlp_endpoint, lost),
        model=settings.generator.name,
        sampled=said.sample_ratio,
        captures=said.capture_content,
        version=version("longthink"),
    )
    return made


def _wanted(settings: Settings) -> dict[str, int]:
    """How many engines of each kind there should be, by what their replicas' names begin with."""
    return {kind.split()[0]: engine.replicas for kind, engine in settings.engines().items()}


def _otel() -> dict[str, str]:
    """What the environment says of OpenTelemetry."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


def _where(settings: Settings) -> str:
    address = settings.ray.address
    return f"connecting to {address}" if address else "starting on this machine"


def _engines(settings: Settings) -> str:
    words = [
        f"{engine.replicas} x {engine.name if kind == 'generator' else kind}"
        for kind, engine in settings.engines().items()
    ]
    return "starting " + " and ".join(words)


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
