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
from typing import Any

from vllm.exceptions import GracefulHTTPError
from vllm.inputs.engine import tokens_input
from vllm.outputs import PoolingRequestOutput
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from workers.messages import Grade, Graded
from workers.options import RewardOptions
from workers.step_scores import StepScores, prefix_names


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
                return Graded(request.id, "cancelled", worker=self._worker)
            if len(token_ids) > request.max_tokens:
                return Graded(request.id, "unaffordable", needs=len(token_ids), worker=self._worker)
            if len(token_ids) > self._longest:
                return self._failed(
                    request,
                    f"The reward model reads {self._longest} tokens at most, and this takes "
                    f"{len(token_ids)}. Shorten the conversation, or the answers by max_tokens.",
                )
            grade = self._grade_steps if self._tag else self._grade_outcome
            return await grade(call, token_ids)
        except EngineDeadError as dead:
            return self._failed(request, f"The engine died: {dead}", lost=True)
        except GracefulHTTPError as busy:
            return self._failed(request, busy.message, lost=True)
        except Exception as broken:  # noqa: BLE001 whatever it was, the caller must hear the end
            return self._failed(request, f"{type(broken).__name__}: {broken}")

    async def _grade_outcome(self, call: Scoring, token_ids: list[int]) -> Graded:
        read = await self._read(call, token_ids, PoolingParams(task="classify"))
        if read is None:
            return Graded(call.id, "cancelled", worker=self._worker)
        return Graded(
            call.id,
            "done",
            (read.outputs.data.float()[-1].item(),),
            reward_tokens=len(token_ids),
            cached_tokens=read.num_cached_tokens,
            worker=self._worker,
        )

    async def _grade_steps(self, call: Scoring, token_ids: list[int]) -> Graded:
        """Score all steps; a second reading is only for scores that nobody was there to hear."""
        steps = len(call.request.steps)
        ends = [place for place, token_id in enumerate(token_ids) if token_id == self._tag_id]
        if len(ends) != steps:
            raise ValueError(f"{len(ends)} step tags came to stand after {steps} steps.")
        names = prefix_names(token_ids, ends)
        spent = cached = 0
        while True:
            whole = self._scores.missed(names)
            read = None
            try:
                read = await self._read(
                    call,
                    token_ids,
                    PoolingParams(task="token_classify", skip_reading_prefix_cache=whole),
                )
            finally:
                if read is None:
                    self._scores.miss(names)
            if read is None:
                return Graded(call.id, "cancelled", reward_tokens=spent, worker=self._worker)
            spent += len(token_ids)
            cached += read.num_cached_tokens
            computed = read.outputs.data.float()[:, 1].tolist()
            start = len(token_ids) - len(computed)
            scores = self._scores.complete(
                names, [computed[end - start] for end in ends if end >= start]
            )
            if scores is not None:
                return Graded(
                    call.id,
                    "done",
                    scores,
                    reward_tokens=spent,
                    cached_tokens=cached,
                    worker=self._worker,
                )
            needs = spent + len(token_ids)
            if needs > call.request.max_tokens:
                return Graded(
                    call.id,
                    "unaffordable",
                    reward_tokens=spent,
                    cached_tokens=cached,
                    needs=needs,
                    worker=self._worker,
                )

    async def _read(
        self, call: Scoring, token_ids: list[int], params: PoolingParams
    ) -> PoolingRequestOutput[Any] | None:
        """What the engine makes of it; None if it was cancelled before that, and never counted."""
        read: PoolingRequestOutput[Any] | None = None
        async for output in self._llm.encode(tokens_input(token_ids), params, call.id):
            read = output
        if read is not None and read.outputs.data.numel():
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

    def _failed(self, request: Grade, error: str, *, lost: bool = False) -> Graded:
        return Graded(request.id, "failed", worker=self._worker, error=error, lost=lost)
