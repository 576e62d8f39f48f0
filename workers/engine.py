"""One vLLM engine, whatever it is used for: how it is started and what its counters say.

The counters are the engine's own; all that longthink bills is checked against them. Importing this
module imports vLLM, which takes seconds: only a replica does, after `set_environment`.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY, generate_latest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

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


def start_engine(options: EngineOptions, **arguments: Any) -> AsyncLLM:
    """Start vLLM in this process and its child; must be called in a running event loop.

    `arguments` are vLLM's own, over those that the options make. Raises what vLLM raises when it
    can't load the model, which fails the replica with that message.
    """
    asked = _arguments(options) | arguments | dict(options.extra)
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**asked))


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
