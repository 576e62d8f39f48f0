"""Sampling from a saved reasoner with vLLM itself, for training the PRM and for measuring.

The engine lives as long as the `Sampler`. Replies come back in the order of the conversations
and are repeatable by seed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm import LLM, SamplingParams

from workers.reference import tokens


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample: how many replies a prompt, how hot, and how long at most."""

    replies: int
    temperature: float = 0.8
    max_tokens: int = 192


@dataclass(frozen=True, slots=True)
class Reply:
    """What the reasoner wrote, and how many tokens that took, its end token included."""

    text: str
    tokens: int


class Sampler:
    """A vLLM engine of its own for one reasoner."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        self._engine = LLM(
            model=str(folder),
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=tokens.CONTEXT,
            max_num_seqs=256,
            seed=seed,
            disable_log_stats=True,
        )

    def sample(
        self, conversations: Sequence[Sequence[dict[str, str]]], how: Sampling
    ) -> list[list[Reply]]:
        """`how.replies` replies to each conversation."""
        done = self._engine.generate(
            [tokens.prompt_text(conversation) for conversation in conversations],
            SamplingParams(n=how.replies, temperature=how.temperature, max_tokens=how.max_tokens),
        )
        return [
            [Reply(output.text, len(output.token_ids)) for output in request.outputs]
            for request in done
        ]
