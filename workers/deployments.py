"""The engines as Ray Serve applications.

Serve starts, watches, replaces and scales the replicas and carries the calls; this says what they
need for it. Nothing is started here.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from workers.generator import Generator
from workers.options import EngineOptions, GeneratorOptions, RewardOptions
from workers.reward import Reward

_ROUTER = "workers.routing.EngineRouter"
GENERATOR = "generator"
PLANNER = "planner"
REWARD = "reward"

_UNBOUNDED = 1_000_000
"""Calls that Serve lets into a replica: the engine bounds what it takes by itself, in requests."""

_HEALTH_PERIOD_SECONDS = 2.0
_HEALTH_TIMEOUT_SECONDS = 30.0
"""Generous: on a machine where all cores are busy, a healthy replica may answer late."""

_STOP_SECONDS = 30.0
"""What a replica may take to end its calls when another takes its place. One without any ends at
once."""


def generators(options: GeneratorOptions) -> serve.Application:
    """The deployment of generators, to be bound to whatever calls them."""
    return _deployment(Generator, GENERATOR, options)


def planners(options: GeneratorOptions) -> serve.Application:
    """The deployment of planners: generators that write what isn't an answer."""
    return _deployment(Generator, PLANNER, options)


def rewards(options: RewardOptions) -> serve.Application:
    """The deployment of reward models, to be bound to whatever calls them."""
    return _deployment(Reward, REWARD, options)


def _deployment(replica: type, name: str, options: EngineOptions) -> serve.Application:
    deployed = serve.deployment(
        name=name,
        num_replicas=options.replicas,
        max_ongoing_requests=_UNBOUNDED,
        request_router_config=_routing(),
        health_check_period_s=_HEALTH_PERIOD_SECONDS,
        health_check_timeout_s=_HEALTH_TIMEOUT_SECONDS,
        graceful_shutdown_timeout_s=_STOP_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        max_surge_percent=one_of(options.replicas) if options.on_cpu else 0,
        **_resources(options),
    )
    return deployed(replica).bind(options)


def one_of(replicas: int) -> int:
    """One replica of so many, in percent: so many more there are while each is replaced in turn.

    On GPUs there may be none to spare: there the old one goes first. Serve rounds up.
    """
    return max(1, 100 // replicas)


def _routing() -> RequestRouterConfig:
    return RequestRouterConfig(
        request_router_class=_ROUTER,  # type: ignore[arg-type]  # Ray annotates keywords as dicts
    )


def _resources(options: EngineOptions) -> dict[str, Any]:
    """What Ray sets aside for a replica. No CPUs: engines share the machine's."""
    if options.tensor_parallel == 1:
        return {"ray_actor_options": {"num_cpus": 0, "num_gpus": options.gpus}}
    # The replica itself sits in the first bundle, and vLLM's shards in those with a GPU.
    return {
        "ray_actor_options": {"num_cpus": 1, "num_gpus": 0},
        "placement_group_bundles": [{"CPU": 1}] + [{"GPU": 1}] * options.tensor_parallel,
        "placement_group_strategy": "PACK",
    }
