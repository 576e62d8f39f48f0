"""One `Grade` on its way through vLLM's pooling.

The text that is read is the conversation and the candidate in the reward model's chat template,
the candidate as an assistant's message with the step tag after each of its steps, in place of
their delimiter, as Qwen2.5-Math-PRM wants it (https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B).
An outcome reward model reads the candidate as it was written.

What continues a candidate that was graded before is read from there on: the engine takes the
beginning from its prefix cache and gives scores of what it computes, and those of the steps before
are remembered here. What always holds: the `reward_tokens` of a call are all that the engine counts
for it, cached or not, and nothing is read that would cost more than the call allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from vllm.exceptions import GracefulHTTPError
from vllm.inputs.engine import tokens_input
from vllm.outputs import PoolingRequestOutput
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from workers.messages import Grade, Graded, GradeFinish, Timing
from workers.options import RewardOptions
from workers.step_scores import StepScores, prefix_names


class Scoring:
    """One request, and whether anyone still wants it."""

    def __init__(self, request: Grade) -> None:
        self.id = request.id
        self.request = request
        self.cancelled = False
        self.began = perf_counter()
        self.spent = 0
        """The tokens that the engine has counted for it."""


class Scorer:
    """Scores candidates on one engine: all their steps, or their outcome."""

    def __init__(self, llm: AsyncLLM, options: RewardOptions, worker: str) -> None:
        self._llm = llm
        self._worker = worker
        self._tokenizer: Any = llm.get_tokenizer()
        self._longest: int = llm.model_config.max_model_len
        self._tag = options.step_tag if options.kind == "process" else ""
        self._tag_id = self._id_of(self._tag) if self._tag else -1
        self._scores = StepScores()

    def _id_of(self, tag: str) -> int:
        token_ids = self._tokenizer.encode(tag, add_special_tokens=False)
        if len(token_ids) != 1:
            raise ValueError(
                f"step_tag must be one token of the reward model; {tag!r} is "
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
                return self._ended(call, "cancelled")
            if len(token_ids) > request.max_tokens:
                return self._ended(call, "unaffordable", needs=len(token_ids))
            if len(token_ids) > self._longest:
                return self._failed(
                    call,
                    f"The reward model reads {self._longest} tokens at most, and this takes "
                    f"{len(token_ids)}. Shorten the conversation, or the answers by max_tokens.",
                )
            grade = self._grade_steps if self._tag else self._grade_outcome
            return await grade(call, token_ids)
        except EngineDeadError as dead:
            return self._failed(call, f"The engine died: {dead}", lost=True)
        except GracefulHTTPError as busy:
            return self._failed(call, busy.message, lost=True)
        except Exception as broken:  # noqa: BLE001 whatever it was, the caller must hear the end
            return self._failed(call, f"{type(broken).__name__}: {broken}")

    async def _grade_outcome(self, call: Scoring, token_ids: list[int]) -> Graded:
        read = await self._read(call, token_ids, PoolingParams(task="classify"))
        if read is None:
            return self._ended(call, "cancelled")
        score = read.outputs.data.float()[-1].item()
        return self._ended(call, "done", step_scores=(score,), cached_tokens=read.num_cached_tokens)

    async def _grade_steps(self, call: Scoring, token_ids: list[int]) -> Graded:
        """Score all steps. A second reading, of all, is for scores that the first left unknown."""
        steps = len(call.request.steps)
        ends = [place for place, token_id in enumerate(token_ids) if token_id == self._tag_id]
        if len(ends) != steps:
            raise ValueError(f"{len(ends)} step tags came to stand after {steps} steps.")
        names = prefix_names(token_ids, ends, call.request.cache_salt)
        cached = 0
        missed = self._scores.missed(names)
        for whole in (missed, True):
            if call.spent + len(token_ids) > call.request.max_tokens:
                if missed:  # it has been read as a whole, and would be again
                    break
                needs = max(len(token_ids), call.request.max_tokens + 1)
                return self._ended(call, "unaffordable", cached_tokens=cached, needs=needs)
            read = await self._read_steps(call, token_ids, names, whole=whole)
            if read is None:
                return self._ended(call, "cancelled", cached_tokens=cached)
            cached += read.num_cached_tokens
            scores = self._heard(read, names, ends)
            if scores is not None:
                return self._ended(call, "done", step_scores=scores, cached_tokens=cached)
        raise ValueError("The engine doesn't give one score for each token that it reads.")

    def _heard(
        self, read: PoolingRequestOutput[Any], names: Sequence[bytes], ends: Sequence[int]
    ) -> tuple[float, ...] | None:
        """The scores of all steps, or None where one is neither computed now nor known."""
        start = read.num_cached_tokens
        computed = read.outputs.data.float()[:, 1].tolist()
        if start + len(computed) != len(read.prompt_token_ids):
            # Interrupted in the middle, an engine may give out twice what it computed twice.
            self._scores.miss(names)
            return None
        last = [computed[end - start] for end in ends if end >= start]
        return self._scores.complete(names, last)

    async def _read_steps(
        self, call: Scoring, token_ids: list[int], names: Sequence[bytes], *, whole: bool
    ) -> PoolingRequestOutput[Any] | None:
        """Read it, from the prefix cache on or as a whole; whoever goes away leaves a note."""
        params = PoolingParams(task="token_classify", skip_reading_prefix_cache=whole)
        read = None
        try:
            if not call.cancelled:
                read = await self._read(call, token_ids, params)
        finally:
            if read is None:
                self._scores.miss(names)
        return read

    async def _read(
        self, call: Scoring, token_ids: list[int], params: PoolingParams
    ) -> PoolingRequestOutput[Any] | None:
        """What the engine makes of it; None if it was cancelled before that, and never counted."""
        read: PoolingRequestOutput[Any] | None = None
        prompt = tokens_input(token_ids, cache_salt=call.request.cache_salt or None)
        priority = call.request.priority
        async for output in self._llm.encode(prompt, params, call.id, priority=priority):
            read = output
        if read is not None and read.outputs.data.numel():
            call.spent += len(token_ids)
            return read
        if call.cancelled:
            return None
        raise ValueError("The engine ended the call without a score.")

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

    def _ended(self, call: Scoring, finish: GradeFinish, **more: Any) -> Graded:
        timing = Timing(perf_counter() - call.began)
        return Graded(
            call.id,
            finish,
            reward_tokens=call.spent,
            worker=self._worker,
            timing=timing,
            **more,
        )

    def _failed(self, call: Scoring, error: str, *, lost: bool = False) -> Graded:
        return self._ended(call, "failed", error=error, lost=lost)
