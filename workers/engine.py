"""One vLLM engine, whatever it is used for: how it is started and what its counters say.

The counters are the engine's own; all that longthink bills is checked against them. Importing this
module imports vLLM, which takes seconds: only a replica does, after `set_environment`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase

from workers.executor import ReplicaExecutor
from workers.options import CPU_BLOCK_SIZE, EngineOptions

_GIB = 1 << 30

_COUNTERS = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prompt_tokens_cached_total": "cached_tokens",
    "vllm:generation_tokens_total": "completion_tokens",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
}


class _Steps(StatLoggerBase):
    """Tells of every step that an engine has finished."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat

    def record(self, *_: Any, **__: Any) -> None:
        """Called by vLLM after each step."""
        self._beat()

    def log_engine_initialized(self) -> None:
        """Called by vLLM when the engine is up."""
        self._beat()


def start_engine(
    options: EngineOptions, beat: Callable[[], None] = lambda: None, **arguments: Any
) -> AsyncLLM:
    """Start vLLM in this process and its child; must be called in a running event loop.

    `beat` is called at the end of every step, so that an engine that hangs can be told.
    `arguments` are vLLM's own, over those that the options make. Raises what vLLM raises when it
    can't load the model, which fails the replica with that message.
    """
    asked = _arguments(options) | arguments | dict(options.extra)

    def steps(_config: VllmConfig, _engine: int) -> StatLoggerBase:
        return _Steps(beat)

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**asked), stat_loggers=[steps])


def _arguments(options: EngineOptions) -> dict[str, Any]:
    """The options in vLLM's words."""
    return {
        "model": options.model,
        "served_model_name": options.served_name,
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "tensor_parallel_size": options.tensor_parallel,
        # Shards are started by Ray in the placement group that the replica was given.
        "distributed_executor_backend": "ray" if options.tensor_parallel > 1 else ReplicaExecutor,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "max_num_queued_reqs": options.max_queued_requests,
        "max_num_queued_tokens": options.max_queued_tokens,
        # Calls that wait run in the order of their priority, and of their coming within one.
        "scheduling_policy": "priority",
        "enforce_eager": options.enforce_eager,
        "enable_prefix_caching": options.enable_prefix_caching,
        "enable_chunked_prefill": options.enable_chunked_prefill,
        "trust_remote_code": options.trust_remote_code,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        # With its size given and no graph to compile, vLLM on the CPU skips profiling and warm-up.
        "kv_cache_memory_bytes": int(options.kv_space_gib * _GIB) if options.on_cpu else None,
        "block_size": options.block_size or (CPU_BLOCK_SIZE if options.on_cpu else None),
        # The sampling defaults that come with a model must not change what a request asks for.
        "generation_config": "vllm",
    }


def read_counters() -> dict[str, int]:
    """Tokens since the engine started, and the requests that run and wait in it now."""
    totals = dict.fromkeys(_COUNTERS.values(), 0)
    for family in REGISTRY.collect():
        for sample in family.samples:
            if sample.name in _COUNTERS:
                totals[_COUNTERS[sample.name]] += int(sample.value)
    return totals


def read_metrics() -> str:
    """Everything that the engine measures, in Prometheus' text format."""
    return generate_latest(REGISTRY).decode()


def read_kept(llm: AsyncLLM) -> str:
    """How many requests the engine's front has a record of, in Prometheus' text format.

    Each has one until it has ended: at rest there is none, be it of a single request or of the
    parent of several.
    """
    registry = CollectorRegistry()
    kept = Gauge(
        "longthink_engine_kept",
        "Requests that the engine's front has a record of.",
        ["kind"],
        registry=registry,
    )
    kept.labels("request").set(len(llm.output_processor.request_states))
    kept.labels("parent").set(len(llm.output_processor.parent_requests))
    return generate_latest(registry).decode()
