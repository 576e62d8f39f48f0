"""One `Generate` on its way through vLLM.

What always holds:

- The counts of its `Generated` are what the engine's own counters grew by, however it ended.
- What continues `token_ids` continues `text`. A stop string of the user is cut off both, with what
  follows it in its last token; a step delimiter stays in both, with what its last token says beyond
  it. Only the token that ends a reply is in `token_ids` alone.
- The streamed pieces of a call, put together, are its `text` and all the tokens that it made.
- Whether a call is doubtful hangs on its tokens alone. How many more the engine had made by the
  time it heard of that, which is where the call ends, hangs on how busy it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any, Literal, TypeAlias

from jinja2 import TemplateError
from tokenizers.decoders import DecodeStream
from vllm.exceptions import GracefulHTTPError
from vllm.inputs.engine import tokens_input
from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.stats import RequestStateStats

from planner.confidence import Watch
from planner.errors import InvalidOption, PromptTooLong
from workers.messages import Generate, Generated, GenerationEvent, Prompt, Timing, Tokens

Finish: TypeAlias = Literal["stop", "step", "length", "doubtful", "cancelled", "failed"]
Messages: TypeAlias = tuple[tuple[str, str], ...]


class Sampler:
    """Renders prompts for one engine and runs calls on it."""

    def __init__(self, llm: AsyncLLM, worker: str) -> None:
        self._llm = llm
        self._worker = worker
        self._tokenizer: Any = llm.get_tokenizer()
        self._context: int = llm.model_config.max_model_len
        self._end_ids = _end_ids(llm)
        self._longest_token = max(map(len, self._tokenizer.get_vocab()))

    async def prepare(self, messages: Messages) -> Prompt:
        """The conversation in the model's own tokens, tokenised off the event loop.

        Raises PromptTooLong, or InvalidOption when the chat template refuses the messages.
        """
        letters = sum(len(content) for _, content in messages)
        if letters > self._context * self._longest_token:
            # Ten megabytes needn't be tokenised to know.
            raise self._too_long(f"{letters} characters")
        token_ids = await asyncio.to_thread(self._tokenise, messages)
        left = self._context - len(token_ids)
        if left < 1:
            raise self._too_long(f"{len(token_ids)} tokens")
        return Prompt(tuple(token_ids), left, self._end_ids)

    def encode(self, text: str) -> tuple[int, ...]:
        """The text in the model's own tokens, with nothing around it."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _tokenise(self, messages: Messages) -> list[int]:
        try:
            token_ids: list[int] = self._tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except (TemplateError, ValueError) as refused:
            raise InvalidOption(
                f"The model's chat template refuses these messages: {refused}", "messages"
            ) from refused
        return token_ids

    def _too_long(self, length: str) -> PromptTooLong:
        return PromptTooLong(
            f"The prompt is too long: it has {length}, and the model's context of {self._context} "
            "tokens must hold the answer too. Shorten the messages.",
            "messages",
        )

    async def run(self, call: Sampling) -> Generated:
        """Carry the call through the engine. Whatever goes wrong becomes its `Generated`.

        When the task is cancelled the engine drops the call at once, and nobody hears its end.
        """
        if call.cancelled:
            return call.ended("cancelled", self._worker)
        request = call.request
        step_ids = self._step_ids(request)
        try:
            async for output in self._llm.generate(
                tokens_input(list(request.prompt_ids), cache_salt=request.cache_salt or None),
                call.parameters(step_ids),
                request.id,
                priority=request.priority,
            ):
                call.read(output)
                if call.doubtful and not output.finished:
                    # Read on, as after a cancellation: the last output says what was counted.
                    await self._llm.abort(request.id)
            return self._end(call, output.outputs[0], step_ids)
        except EngineDeadError as dead:
            return call.failed(f"The engine died: {dead}", self._worker, lost=True)
        except GracefulHTTPError as busy:
            return call.failed(busy.message, self._worker, lost=True)
        except Exception as broken:  # noqa: BLE001 whatever it was, the caller must hear the end
            return call.failed(f"{type(broken).__name__}: {broken}", self._worker)

    def _step_ids(self, request: Generate) -> list[int]:
        """The delimiters that are one token, at which the engine itself ends a call.

        Every other stop is looked for in the text, outside of the engine, one step later.
        """
        encoded = (
            self._tokenizer.encode(stop, add_special_tokens=False) for stop in request.delimiters
        )
        return [token_ids[0] for token_ids in encoded if len(token_ids) == 1]

    def _end(self, call: Sampling, last: CompletionOutput, step_ids: list[int]) -> Generated:
        """What became of a call that the engine has finished."""
        finish: Finish = "stop"
        match last.finish_reason, last.stop_reason:
            case "abort", _ if call.cancelled or call.doubtful:
                finish = "cancelled"
            case "length", _:
                finish = "length"
            case "stop", int(stop) if stop in step_ids:
                finish = "step"
            case "stop", str(stop) if stop in call.request.delimiters:
                call.text = self._decode(call)
                finish = "step"
            case "stop", str(stop):
                call.cut(stop)
                call.kept_ids = self._saying(call)
            case "stop", _:  # the model itself, by any of its end tokens
                call.cut(self._tokenizer.decode(call.token_ids[-1:], skip_special_tokens=True))
            case reason, _:
                return call.failed(f"The engine ended it by itself: {reason}", self._worker)
        return call.ended("doubtful" if call.doubtful else finish, self._worker)

    def _decode(self, call: Sampling) -> str:
        """All that the tokens say, which vLLM cuts at a stop string even within a token."""
        return "".join(self._pieces(call))

    def _saying(self, call: Sampling) -> list[int]:
        """The tokens that say the text and no more.

        Where a stop string began within a token, what that says before it is tokenised anew.
        """
        kept: list[int] = []
        held: list[int] = []  # of a letter that isn't whole yet
        said = 0
        for token_id, piece in zip(call.token_ids, self._pieces(call), strict=True):
            if said + len(piece) > len(call.text):
                break
            held.append(token_id)
            if piece:
                kept += held
                held, said = [], said + len(piece)
        rest = call.text[said:]
        if self._tokenizer.decode(held, skip_special_tokens=True) != rest:
            held = list(self.encode(rest))
        return kept + held

    def _pieces(self, call: Sampling) -> Iterator[str]:
        """What each of its tokens adds to the text."""
        stream = DecodeStream(ids=list(call.request.prompt_ids), skip_special_tokens=True)
        backend = self._tokenizer.backend_tokenizer
        for token_id in call.token_ids:
            yield stream.step(backend, token_id) or ""


class Sampling:
    """One request and what has come of it so far. `emit` takes the streamed pieces."""

    def __init__(self, request: Generate, emit: Callable[[GenerationEvent], None]) -> None:
        self.id = request.id
        self.request = request
        self.cancelled = False
        self.text = ""
        self.token_ids: list[int] = []
        """All that the engine made and counted."""
        self.kept_ids: list[int] | None = None
        """What of them the call ends with, if not all."""
        self._emit = emit
        self._said = 0  # characters of `text` that were streamed
        self._sent = 0  # tokens that were streamed
        self._cached = 0
        self._began = perf_counter()
        self._stats: RequestStateStats | None = None
        self._logprob: float | None = None
        self._top_logprobs: list[tuple[float, ...]] = []
        self._watch = Watch(request.floor, request.confidences)
        hidden = [stop for stop in request.stop if stop not in request.delimiters]
        # vLLM keeps either all stop strings in the text or none. With a delimiter among them it
        # must keep all, so the user's are cut off here; until the end, as many characters as
        # might begin one are held back from the stream.
        self._keeps = bool(request.delimiters)
        self._held = max(map(len, hidden), default=1) - 1 if self._keeps else 0

    def parameters(self, step_ids: list[int]) -> SamplingParams:
        """The request in vLLM's words."""
        request = self.request
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            seed=request.seed,
            stop=list({*request.stop, *request.delimiters}),
            stop_token_ids=step_ids,
            include_stop_str_in_output=self._keeps,
            logprobs=request.top_logprobs or None,
            flat_logprobs=True,
            structured_outputs=(
                None if request.schema is None else StructuredOutputsParams(json=request.schema)
            ),
            output_kind=(
                RequestOutputKind.DELTA if self._piecemeal else RequestOutputKind.FINAL_ONLY
            ),
        )

    @property
    def doubtful(self) -> bool:
        """Whether it has fallen under its floor."""
        return self._watch.fallen

    @property
    def _piecemeal(self) -> bool:
        """Whether its tokens have to be seen as they come."""
        return self.request.stream or self.request.floor is not None

    def read(self, output: RequestOutput) -> None:
        """Take in what came: all since the last output, or all there is if that comes at once."""
        new = output.outputs[0]
        self.text += new.text
        self.token_ids += new.token_ids
        self._cached = output.num_cached_tokens or 0
        self._stats = output.metrics
        self._logprob = new.cumulative_logprob
        top_logprobs = _top(new.logprobs, self.request.top_logprobs)
        self._top_logprobs += top_logprobs
        for logprobs in top_logprobs:
            self._watch.saw(logprobs)
        if self.request.stream and not output.finished:
            self._stream(len(self.text) - self._held)

    def cut(self, ending: str) -> None:
        """Take the stop string, or the end token, out of the text if vLLM left it in."""
        if self._keeps:
            self.text = self.text.removesuffix(ending)

    def ended(self, finish: Finish, worker: str) -> Generated:
        """The end of it, after streaming what was held back."""
        if self.request.stream:
            self._stream(len(self.text))
        # The engine counts a prompt together with its first token.
        counted = bool(self.token_ids)
        return Generated(
            self.request.id,
            finish,
            text=self.text,
            token_ids=tuple(self.token_ids if self.kept_ids is None else self.kept_ids),
            logprob=self._logprob,
            top_logprobs=tuple(self._top_logprobs),
            prompt_tokens=len(self.request.prompt_ids) if counted else 0,
            cached_tokens=self._cached if counted else 0,
            completion_tokens=len(self.token_ids),
            worker=worker,
            timing=_timing(perf_counter() - self._began, self._stats),
        )

    def failed(self, error: str, worker: str, *, lost: bool = False) -> Generated:
        """The end of it, against everyone's wish."""
        return replace(self.ended("failed", worker), error=error, lost=lost)

    def _stream(self, end: int) -> None:
        text = self.text[self._said : max(end, self._said)]
        token_ids = tuple(self.token_ids[self._sent :])
        if text or token_ids:
            self._emit(Tokens(self.request.id, text, token_ids))
        self._said += len(text)
        self._sent += len(token_ids)


def _timing(seconds: float, stats: RequestStateStats | None) -> Timing:
    """How long it took, and what the engine says of when; a moment that never came is 0 there."""
    since = stats.queued_ts if stats is not None else 0.0
    if stats is None or not since:
        return Timing(seconds)
    return Timing(
        seconds,
        queued=stats.scheduled_ts - since if stats.scheduled_ts else None,
        first=stats.first_token_ts - since if stats.first_token_ts else None,
    )


def _end_ids(llm: AsyncLLM) -> tuple[int, ...]:
    """The tokens at which the engine ends a reply: the tokenizer's, and those the model names.

    vLLM stops at those of its `generation_config.json` even where it takes no defaults from there.
    """
    end: int | None = llm.get_tokenizer().eos_token_id
    named: int | list[int] | None = llm.model_config.try_get_generation_config().get("eos_token_id")
    others = [named] if isinstance(named, int) else named or []
    return tuple(dict.fromkeys(([] if end is None else [end]) + others))


def _top(logprobs: object, count: int) -> list[tuple[float, ...]]:
    """The `count` highest log-probabilities of each position, highest first.

    In vLLM's flat form all positions follow one another, each with the sampled token and the best.
    """
    if not isinstance(logprobs, FlatLogprobs):
        return []
    top = []
    for start, end in zip(logprobs.start_indices, logprobs.end_indices, strict=True):
        best = dict(zip(logprobs.token_ids[start:end], logprobs.logprobs[start:end], strict=True))
        top.append(tuple(sorted(best.values(), reverse=True)[:count]))
    return top
