"""What a profile says of an engine, and nothing else.

Owns the options of generators and reward models. Running on GPUs or on the CPU differs by these
values only. Light on purpose: the edge reads a profile without importing Ray or vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CPU_BLOCK_SIZE = 32
"""Tokens in a block of the KV cache on the CPU: vLLM's attention there takes multiples of it. Its
own default, 128, is longer than many a prompt: nothing of that one could be used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """One vLLM engine, and how many of it. Each is a replica of a Ray Serve deployment.

    `model` is a folder or a Hugging Face id. `gpus` is what Ray sets aside for one replica: none
    runs it on the CPU, a fraction shares one; with `tensor_parallel` above one, as many as that.
    `kv_space_gib` is the KV cache on the CPU and `threads` what it computes with there;
    `gpu_memory_utilization` is the share of a GPU's memory. The KV cache is kept in blocks of
    `block_size` tokens, and only full ones are used again. At most `max_queued_requests` are in an
    engine at once, running or waiting, and none is added while prompts of `max_queued_tokens`
    tokens wait: what exceeds either is refused at once. An engine that has work and finishes no
    step of it for `silence_seconds` hangs, and is replaced. `extra` holds further vLLM engine
    arguments by name, over all others.
    """

    model: str
    served_name: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    replicas: int = 1
    tensor_parallel: int = 1
    gpus: float = 0.0
    gpu_memory_utilization: float = 0.9
    kv_space_gib: float = 1.0
    block_size: int | None = None
    threads: int = 1
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None
    max_queued_requests: int = 1024
    max_queued_tokens: int = 1_000_000
    silence_seconds: float = 30.0
    enforce_eager: bool = True
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = False
    trust_remote_code: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_cpu(self) -> bool:
        """Whether the engine runs without a GPU."""
        return not self.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorOptions(EngineOptions):
    """A model that writes.

    On the CPU `enable_chunked_prefill` must stay off: there a seeded request whose prompt is read
    in more than one piece kills the engine.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardOptions(EngineOptions):
    """A model that grades.

    `kind` "process" reads the probability of its second label at each `step_tag`, one after every
    step; "outcome" gives one score for the whole. `aggregate` says how step scores become one.
    """

    kind: Literal["process", "outcome"] = "process"
    step_tag: str = "<extra_0>"
    aggregate: Literal["last", "min", "product", "mean"] = "last"
