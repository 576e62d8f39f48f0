"""The composition root: the one place that knows every concrete part, and puts them together.

`Service` owns the processes: a redis-server and a Ray cluster where the settings name none, the
engines and the HTTP edge on it. What it started, it stops; what it found, it leaves running.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Self

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from redis.exceptions import RedisError

from planner.calibration import Calibration
from planner.domain import Sampling
from planner.effort import settle
from planner.errors import LongthinkError
from services.api.app import build
from services.api.limits import Limits
from services.budget import RedisLedger, connect
from services.calibration import Calibrations, CalibrationStore, load
from services.driver import Manner
from services.idempotency import Keys
from services.once import Once
from services.outlook import OutlookStore
from services.reasoning import Reasoner
from services.redis_server import RedisServer
from services.settings import REFERENCE, Settings
from services.telemetry import Telemetry, configure_logging
from services.trace import TraceStore
from workers.deployments import generators, planners, rewards
from workers.pool import ServePool
from workers.verifier import Verifier

APPLICATION = "longthink"

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
        configure_logging(settings.service.log_format, settings.service.log_level)
        self._settings = settings
        self._redis = connect(redis_url)
        self._verifier = Verifier()
        self._pool = ServePool(
            generator,
            reward,
            planner=planner,
            generators=settings.generator.replicas,
            planners=settings.planner.replicas,
            rewards=settings.reward.replicas,
            verifier=self._verifier,
        )
        self._telemetry = Telemetry()
        self._traces = TraceStore(
            self._redis,
            ttl_seconds=settings.redis.ttl_seconds,
            lost=self._telemetry.events_lost,
        )
        self._reasoner = Reasoner(
            self._pool,
            RedisLedger(
                self._redis,
                lease_seconds=settings.redis.lease_seconds,
                ttl_seconds=settings.redis.ttl_seconds,
            ),
            self._traces,
            Manner(
                prices=settings.price_table(),
                step_delimiter=settings.generator.step_delimiter,
                aggregate=settings.reward.aggregate,
                lease_seconds=settings.redis.lease_seconds,
            ),
            presets=settings.presets(),
            default_effort=settings.service.default_effort,
            outlooks=OutlookStore(self._redis, settings.generator.name),
            calibrations=Calibrations(
                settings.generator.name, CalibrationStore(self._redis), calibration
            ),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve for the application that this replica serves."""
        service = self._settings.service
        return build(
            self._reasoner,
            model_name=self._settings.generator.name,
            ready=self._ready,
            traces=self._traces,
            telemetry=self._telemetry,
            engine_metrics=self._engine_metrics,
            limits=Limits(
                body_bytes=service.max_body_bytes,
                sampling=Sampling(max_tokens=service.default_max_tokens),
            ),
            settle=partial(
                settle, presets=self._settings.presets(), default=service.default_effort
            ),
            once=Once(
                self._reasoner,
                Keys(self._redis, ttl_seconds=self._settings.redis.ttl_seconds),
                self._traces,
            ),
        )

    async def counters(self) -> dict[str, dict[str, int]]:
        """The engines' own counters, by replica."""
        return await self._pool.counters()

    async def drain(self, seconds: float) -> None:
        """End all requests with the best they have, in at most so long."""
        await self._reasoner.drain(seconds)
        await self._verifier.close()

    async def _ready(self) -> dict[str, bool]:
        return {"engines": await self._pool.ready(), "redis": await self._redis_answers()}

    async def _redis_answers(self) -> bool:
        try:
            return bool(await self._redis.ping())
        except RedisError:
            return False

    async def _engine_metrics(self) -> list[tuple[str, str]]:
        return list((await self._pool.metrics()).items())


class Service:
    """Everything that runs for one `longthink serve`."""

    def __init__(self, settings: Settings, url: str, parts: ExitStack) -> None:
        self.settings = settings
        self.url = url
        self._parts = parts
        self._over = threading.Event()

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
            tell(f"Ray: {_where(settings)}")
            parts.enter_context(_Ray(settings, logs=logs))
            tell("Engines: " + _engines(settings))
            port = settings.service.port or _free_port(settings.service.host)
            application = _Application(settings, redis_url, port, calibration)
            handle = parts.enter_context(application).handle
            parts.callback(_drain, handle, settings.service.grace_seconds)
            return cls(settings, settings.service.url(port), parts.pop_all())
        raise AssertionError("unreachable")

    def wait(self) -> None:
        """Return when the process is told to end by SIGINT or SIGTERM, or `stop` was called."""
        before = {
            one: signal.signal(one, lambda *_: self._over.set())
            for one in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._over.wait()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def stop(self) -> None:
        """End requests in flight with the best they have, then stop all that was started.

        Idempotent.
        """
        self._over.set()
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


class _Ray:
    """The Ray cluster, started where the settings name none."""

    def __init__(self, settings: Settings, *, logs: bool) -> None:
        self._settings = settings
        self._logs = logs

    def __enter__(self) -> None:
        os.environ.update(_ENVIRONMENT)
        address = self._settings.ray.address
        if address is None:
            self._start()
        else:
            ray.init(
                address=address,
                log_to_driver=self._logs,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": _ENVIRONMENT},
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
                return

    def __exit__(self, *exception: object) -> None:
        ray.shutdown()


class _Application:
    """The engines and the edge as one Ray Serve application."""

    def __init__(
        self, settings: Settings, redis_url: str, port: int, calibration: Calibration | None
    ) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._port = port
        self._calibration = calibration

    def __enter__(self) -> Self:
        settings = self._settings
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(host=settings.service.host, port=self._port),
            logging_config=quiet,
        )
        generator = generators(settings.generator.options())
        others: dict[str, Any] = {"calibration": self._calibration}
        if (planner := settings.planner.options()) is not None:
            others["planner"] = planners(planner)
        if (reward := settings.reward.options()) is not None:
            others["reward"] = rewards(reward)
        edge = serve.deployment(
            name="edge",
            ray_actor_options={"num_cpus": 0},
            max_ongoing_requests=10_000,
            graceful_shutdown_timeout_s=settings.service.grace_seconds,
            logging_config=quiet,
        )(serve.ingress()(Edge))
        with ExitStack() as in_vain:
            in_vain.callback(self._delete)
            try:
                self.handle: DeploymentHandle[Any] = serve.run(
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
            in_vain.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._delete()

    def _delete(self) -> None:
        """Take the application off a cluster that goes on without this process."""
        if self._settings.ray.address is not None:
            serve.delete(APPLICATION)


def _drain(handle: DeploymentHandle[Any], seconds: float) -> None:
    """Have the edge end its requests; where it is gone already there is nothing to end."""
    with suppress(RayError, RayServeException, TimeoutError):
        handle.drain.remote(seconds).result(timeout_s=seconds + 1)


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
