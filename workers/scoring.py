"""One `Grade` on its way through vLLM's pooling.

The text that is read is the conversation and the candidate in the reward model's chat template,
the candidate as an assistant's message with the step tag after each of its steps, in place of
their delimiter, as Qwen2.5-Math-PRM wants it (https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B).
An outcome reward model reads the candidate as it was written. What always holds: the
`reward_tokens` of a call are all that the engine read for it, and nothing is read that would cost
more than the call allows.
"""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from vllm.exceptions import GracefulHTTPError
from vllm.inputs.engine import tokens_input
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from workers.messages import Grade, Graded
from workers.options import RewardOptions


class Scoring:
    """One request, and whether anyone still wants it."""

    def __init__(self, request: Grade) -> None:
        self.id = request.id
        self.request = request
        self.cancelled = False


class Scorer:
    """Scores candidates on one engine: all their steps, or their outcome."""

    def __init__(self, llm: AsyncLLM, options: RewardOptions, worker: str) -> None:
        self._llm = llm
        self._worker = worker
        self._tokenizer: Any = llm.get_tokenizer()
        self._longest: int = llm.model_config.max_model_len
        self._tag = options.step_tag if options.kind == "process" else ""
        if self._tag:
            self._pooling = PoolingParams(task="token_classify", step_tag_id=self._tag_id())
        else:
            self._pooling = PoolingParams(task="classify")

    def _tag_id(self) -> int:
        token_ids = self._tokenizer.encode(self._tag, add_special_tokens=False)
        if len(token_ids) != 1:
            raise ValueError(
                f"step_tag must be one token of the reward model; {self._tag!r} is "
                f"{len(token_ids)}. Name the tag that the model was trained with."
            )
        return int(token_ids[0])

    async def run(self, call: Scoring) -> Graded:
        """Score one candidate. Whatever goes wrong becomes its `Graded`.

        When the task is cancelled the engine drops the call at once, and nobody hears its end.
        """
        request = call.request
        try:
            token_ids = await asyncio.to_thread(self._tokenise, request)
            if call.cancelled:
                return Graded(request.id, "cancelled", worker=self._worker)
            if len(token_ids) > request.max_tokens:
                return Graded(request.id, "unaffordable", needs=len(token_ids), worker=self._worker)
            return await self._score(call, token_ids)
        except EngineDeadError as dead:
            return self._failed(request, f"The engine died: {dead}", lost=True)
        except GracefulHTTPError as busy:
            return self._failed(request, busy.message, lost=True)
        except Exception as broken:  # noqa: BLE001 whatever it was, the caller must hear the end
            return self._failed(request, f"{type(broken).__name__}: {broken}")

    async def _score(self, call: Scoring, token_ids: list[int]) -> Graded:
        request, read = call.request, len(token_ids)
        if read > self._longest:
            return self._failed(
                request,
                f"The reward model reads {self._longest} tokens at most, and this takes {read}. "
                "Shorten the conversation, or the answers by max_tokens.",
            )
        data = torch.empty(0)
        async for output in self._llm.encode(tokens_input(token_ids), self._pooling, request.id):
            data = output.outputs.data.float()
        if call.cancelled and not data.numel():
            # Aborted before it was read, and so not counted by the engine either.
            return Graded(request.id, "cancelled", worker=self._worker)
        scores = tuple(data[:, 1].tolist()) if self._tag else (data[-1].item(),)
        if self._tag and len(scores) != len(request.steps):
            raise ValueError(f"{len(scores)} scores came for {len(request.steps)} steps")
        return Graded(request.id, "done", scores, reward_tokens=read, worker=self._worker)

    def _tokenise(self, request: Grade) -> list[int]:
        """The whole conversation with the candidate, in the reward model's tokens."""
        if self._tag:
            answer = "".join(self._plain(step) + self._tag for step in request.steps)
        else:
            answer = request.delimiter.join(request.steps)
        messages = [
            *({"role": role, "content": self._plain(text)} for role, text in request.messages),
            {"role": "assistant", "content": answer},
        ]
        token_ids: list[int] = self._tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False
        )
        return token_ids

    def _plain(self, text: str) -> str:
        """The text without the tag: one that somebody wrote would be scored as a step's end."""
        return text.replace(self._tag, "") if self._tag else text

    def _failed(self, request: Grade, error: str, *, lost: bool = False) -> Graded:
        return Graded(request.id, "failed", worker=self._worker, error=error, lost=lost)
