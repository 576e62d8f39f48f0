"""What a client may ask of `POST /v1/chat/completions`, and what becomes of it.

Every field of OpenAI's is either honoured, and then it is a field of `ChatRequest`; or it changes
nothing here, whatever it says (`WITHOUT_EFFECT`); or it is refused by name, unless it has a value
that asks for nothing (`REFUSED`), as clients send those unasked. A null is a field left out. Any
other field is refused by name too: nothing is dropped in silence.

Checking stops at the first fault, so that a hostile body costs no more than reading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from secrets import randbits
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError, from_json, to_json

from planner.domain import Budget, Code, Query, Sampling
from planner.domain import Message as Turn
from planner.effort import Options
from services.api.errors import ApiError, invalid
from services.api.limits import Limits
from services.settings import MOST_CANDIDATES

WITHOUT_EFFECT: Mapping[str, type] = MappingProxyType(
    {
        "user": str,  # names of the client's own, for its own records
        "safety_identifier": str,
        "metadata": dict,  # kept by OpenAI beside stored completions; none are stored here
        "prompt_cache_key": str,  # a hint: prefixes are cached without it
        "parallel_tool_calls": bool,  # about tools, and there are none
    }
)
"""Fields that may say anything of their type, as the answer to the request is the same."""

REFUSED: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "audio": (),
        "frequency_penalty": (0,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "logit_bias": ({},),
        "logprobs": (False,),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "presence_penalty": (0,),
        "prompt_cache_options": (),
        "prompt_cache_retention": ("in_memory",),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
)
"""Fields that aren't supported, each with the values of it that ask for nothing."""

OF_A_MESSAGE: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "annotations": ([],),
        "audio": (),
        "function_call": (),
        "name": (),
        "refusal": (),
        "tool_call_id": (),
        "tool_calls": ([],),
    }
)
"""The same for a message. Clients send replies back as they got them, empty fields included."""

OF_A_STREAM: Mapping[str, tuple[Any, ...]] = MappingProxyType({"include_obfuscation": (False,)})
"""The same for `stream_options`."""

MOST_ANSWERS = 128
MOST_MESSAGES = 1024
MOST_STOPS = 4
MOST_INPUTS = 32
MOST_INPUT = 65_536
_INT64 = 1 << 63
_INVALID = "invalid_value"
_UNSUPPORTED = "unsupported_parameter"
_FAULT = "fault"
_KINDS: Mapping[type, str] = MappingProxyType(
    {str: "a string", dict: "an object", bool: "a boolean"}
)
# Redis counts in doubles, exact to 2**53; this leaves room for sums of many requests.
_MOST = 10**12

Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
Word: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=_MOST)]
Seed: TypeAlias = Annotated[int, Field(ge=-_INT64, lt=_INT64)]
EffortWord: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Form(BaseModel):
    """A JSON object of a request. `refused` names the fields of it that aren't supported."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({})
    without_effect: ClassVar[Mapping[str, type]] = MappingProxyType({})

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            self._check(name, value)
        return self

    @classmethod
    def _check(cls, name: str, value: Any) -> None:
        kind, nothings = cls.without_effect.get(name), cls.refused.get(name)
        if kind is None and nothings is None:
            raise _fault("is not a field of this object", name, code="unknown_parameter")
        if value is None or (kind is not None and isinstance(value, kind)):
            return
        if kind is not None:
            raise _fault(f"must be {_KINDS[kind]}", name)
        if nothings and not any(_same(value, nothing) for nothing in nothings):
            accepted = b" or ".join(to_json(nothing) for nothing in nothings).decode()
            raise _fault(f"is not supported, except as {accepted}", name, code=_UNSUPPORTED)
        if not nothings:
            raise _fault("is not supported", name, code=_UNSUPPORTED)


class Part(Form):
    """One part of a message's content. Only text is understood."""

    type: Literal["text"]
    text: str


class Message(Form):
    """One turn. `reasoning_content` of earlier turns is read and left out, as models expect."""

    refused = OF_A_MESSAGE
    without_effect = MappingProxyType({"reasoning_content": str})

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        str | Annotated[list[Part], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    )

    def turn(self) -> Turn:
        """The message as a search has it: `developer` is today's name of `system`."""
        content = self.content
        if not isinstance(content, str):
            content = "\n".join(part.text for part in content)
        return Turn("system" if self.role == "developer" else self.role, content)


class StreamOptions(Form):
    refused = OF_A_STREAM

    include_usage: bool | None = None


class BudgetOptions(Form):
    """Limits on the compute of one request. `usd` is in dollars, counted in millionths of one."""

    completion_tokens: Count | None = None
    reward_tokens: Annotated[int, Field(ge=0, le=_MOST)] | None = None
    candidates: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)] | None = None
    deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    usd: Annotated[float, Field(ge=0.000001, le=1_000_000)] | None = None

    def budget(self) -> Budget:
        # What is spent is a whole number of micro-dollars: a limit between two is the lower one.
        # The shortest decimal that reads as this float is what the client wrote.
        return Budget(
            completion_tokens=self.completion_tokens,
            reward_tokens=self.reward_tokens,
            candidates=self.candidates,
            micro_usd=None if self.usd is None else int(Decimal(repr(self.usd)) * 1_000_000),
            deadline_seconds=self.deadline_seconds,
        )


class CodeOptions(Form):
    """Answers are Python programs: those that give the same for all these inputs are one."""

    inputs: Annotated[
        list[Annotated[str, Field(max_length=MOST_INPUT)]],
        Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True),
    ]
    entry: Annotated[str, Field(max_length=256, pattern=r"^[^\W\d]\w*$")] | None = None

    @model_validator(mode="after")
    def _calls_with_arrays(self) -> Self:
        if self.entry is not None and not all(map(_is_array, self.inputs)):
            raise _fault(
                "must each be a JSON array, the arguments of the function that entry names",
                "inputs",
            )
        return self

    def code(self) -> Code:
        return Code(tuple(self.inputs), self.entry)


class LongthinkOptions(Form):
    """What longthink has beyond OpenAI's API.

    `inner` is the strategy that searches each step of one that plans, as if it stood in brackets
    after `strategy`.
    """

    trace_id: (
        Annotated[
            str,
            Field(
                pattern=r"^[0-9A-Za-z_-]{1,64}$",
                description=(
                    "An earlier request of the same messages, sampling options and seed (taken "
                    "from it where none is named). What was sampled and graded for it is kept: "
                    "`budget` is the total of both, and only what is missing is spent. The id of "
                    "its reply does as well."
                ),
            ),
        ]
        | None
    ) = None

    strategy: Text | None = None
    inner: Text | None = None
    selector: Word | None = None
    stop: Word | None = None
    seed: Seed | None = None
    budget: BudgetOptions | None = None
    code: CodeOptions | None = None

    @model_validator(mode="after")
    def _inner_is_inside(self) -> Self:
        if self.inner is not None and (self.strategy is None or "(" in self.strategy):
            raise _fault("goes with a strategy that has none in brackets", "inner")
        return self

    def written(self) -> str | None:
        """The strategy with the one inside."""
        return self.strategy if self.inner is None else f"{self.strategy}({self.inner})"


class ChatRequest(Form):
    """The body of a request for a chat completion."""

    refused = REFUSED
    without_effect = WITHOUT_EFFECT

    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[
        list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    ]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MOST_STOPS, fail_fast=True)] | None = None
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: EffortWord | None = None
    longthink: LongthinkOptions | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise _fault("is only allowed with stream", "stream_options")
        if _differ(self.max_tokens, self.max_completion_tokens):
            raise _fault("must be the same as max_completion_tokens, or left out", "max_tokens")
        if self.longthink is not None and _differ(self.seed, self.longthink.seed):
            raise _fault("must be the same as longthink.seed, or left out", "seed")
        return self


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request comes down to."""

    query: Query
    options: Options
    stream: bool
    include_usage: bool
    earlier: str | None
    """The trace of the request whose candidates are to be kept."""
    seeded: bool
    """Whether it names its seed."""


def parse(body: bytes, *, model: str, limits: Limits) -> Ask:
    """Read a request for `model`.

    Raises ApiError: 400 for what can't be honoured, 404 for another model.
    """
    try:
        form = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None
    if form.model != model:
        raise unknown_model(form.model, model)
    ours = form.longthink or LongthinkOptions()
    return Ask(
        query=Query(
            messages=tuple(message.turn() for message in form.messages),
            sampling=_sampling(form, limits.sampling),
            seed=_seed(form, ours),
            code=ours.code.code() if ours.code else None,
        ),
        options=Options(
            effort=form.reasoning_effort,
            strategy=ours.written(),
            selector=ours.selector,
            stop=ours.stop,
            budget=ours.budget.budget() if ours.budget else Budget(),
            answers=form.n or 1,
        ),
        stream=bool(form.stream),
        include_usage=bool(form.stream_options and form.stream_options.include_usage),
        earlier=None if ours.trace_id is None else ours.trace_id.removeprefix("chatcmpl-"),
        seeded=form.seed is not None or ours.seed is not None,
    )


def unknown_model(asked: str, served: str) -> ApiError:
    return ApiError(
        HTTPStatus.NOT_FOUND,
        f"The model {_short(asked)} does not exist. This service has {served!r}.",
        code="model_not_found",
        param="model",
    )


def _sampling(form: ChatRequest, default: Sampling) -> Sampling:
    stop = (form.stop,) if isinstance(form.stop, str) else tuple(form.stop or ())
    return Sampling(
        temperature=default.temperature if form.temperature is None else form.temperature,
        top_p=default.top_p if form.top_p is None else form.top_p,
        max_tokens=form.max_tokens or form.max_completion_tokens or default.max_tokens,
        stop=stop or default.stop,
    )


def _seed(form: ChatRequest, ours: LongthinkOptions) -> int:
    """The seed asked for; without one, two equal requests are sampled apart."""
    for seed in (form.seed, ours.seed):
        if seed is not None:
            return seed
    return randbits(63)


def _is_array(text: str) -> bool:
    try:
        return isinstance(from_json(text), list)
    except ValueError:
        return False


def _differ(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one != other


def _same(value: Any, nothing: Any) -> bool:
    """Equality as JSON has it, where false is not 0."""
    return bool(value == nothing) and isinstance(value, bool) == isinstance(nothing, bool)


def _fault(message: str, field: str, *, code: str = _INVALID) -> PydanticCustomError:
    """What is wrong with `field` of the object that is being checked."""
    return PydanticCustomError(
        _FAULT, "{message}", {"message": message, "field": field, "code": code}
    )


def _refusal(error: ValidationError) -> ApiError:
    """OpenAI's error for what pydantic objects to first."""
    faults = error.errors(include_url=False, include_input=False)
    # A value that fits no type of a union has a fault for each; the deepest says the most, and of
    # equals the one that isn't about the type itself.
    fault = max(faults, key=lambda each: (len(each["loc"]), not each["type"].endswith("_type")))
    if fault["type"] == "json_invalid":
        return invalid(f"The body can't be read. {fault['msg']}.", None, code="invalid_json")
    param = _param(fault)
    if fault["type"] == "missing":
        return invalid(f"{param} is required.", param, code="missing_required_parameter")
    if fault["type"] == _FAULT:
        return invalid(f"{param} {fault['msg']}.", param, code=fault["ctx"]["code"])
    message = f"{param or 'The body'}: {fault['msg']}"
    if fault["type"].startswith(("literal", "greater", "less")):
        # A single value was there, and it helps to see it; of others, there may be a megabyte.
        value = error.errors(include_url=False)[faults.index(fault)]["input"]
        message += f", not {_bounded(repr(value))}"
    return invalid(f"{message}.", param)


def _param(fault: ErrorDetails) -> str | None:
    """Where the fault is, as `messages[0].content`."""
    steps = [*fault["loc"], *filter(None, [fault.get("ctx", {}).get("field")])]
    param = ""
    for step in steps:
        if isinstance(step, int):
            param += f"[{step}]"
        elif step != "str" and not step.startswith(("list[", "constrained-", "function-")):
            # Anything else is the name of a field, and not the type that a union tried.
            param += ("." if param else "") + _bounded(step)
    return param or None


def _short(text: str) -> str:
    return repr(_bounded(text))


def _bounded(text: str, most: int = 64) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
