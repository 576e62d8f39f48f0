"""What the schema of a request takes, what it refuses, and that it never does anything else."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from planner.domain import Code, Sampling
from planner.effort import PRESETS
from services.api.errors import ApiError
from services.api.limits import Limits
from services.api.schema import (
    REFUSED,
    WITHOUT_EFFECT,
    Ask,
    ChatRequest,
    EffortWord,
    parse,
)

# A busy machine is no fault of what is tested.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MODEL = "m"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "?"}]}
LIMITS = Limits(sampling=Sampling(temperature=0.6, top_p=0.8, max_tokens=99))


def read(body: Any) -> Ask:
    return parse(json.dumps(body).encode(), model=MODEL, limits=LIMITS)


def refusal(body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body)
    return caught.value


def verdict(body: Any) -> int:
    """The status of a request: 200 if it is taken."""
    try:
        read(body)
    except ApiError as error:
        return error.status
    return 200


def budget(**limits: Any) -> dict[str, Any]:
    return {**BODY, "longthink": {"budget": limits}}


def programs(**code: Any) -> dict[str, Any]:
    return {**BODY, "longthink": {"code": code}}


def test_answers_may_be_programs() -> None:
    """Inputs are standard inputs as they are, or JSON arrays where a function is named."""
    assert read(BODY).query.code is None
    assert read(programs(inputs=["", "1\n"])).query.code == Code(("", "1\n"))
    assert read(programs(inputs=["[]", "[1, 2]"], entry="f")).query.code == Code(
        ("[]", "[1, 2]"), "f"
    )


def test_every_field_of_openais_client_is_decided_on() -> None:
    """No field that OpenAI's client can send is unknown: honoured, without effect or refused."""
    theirs = set(CompletionCreateParamsBase.__annotations__) | {"stream"}
    ours = set(ChatRequest.model_fields) | set(WITHOUT_EFFECT) | set(REFUSED)
    assert theirs - ours == set()
    assert ours - theirs == {"longthink"}


def test_the_words_of_effort_are_those_of_the_planner() -> None:
    """Each preset can be asked for, and nothing else."""
    assert set(get_args(EffortWord)) == set(PRESETS)


def test_what_a_request_leaves_open_is_the_profiles_to_say() -> None:
    """Temperature, top_p and length have the profile's defaults, and nothing else is limited."""
    ask = read(BODY)
    assert ask.query.sampling == LIMITS.sampling
    assert ask.options.budget.completion_tokens is None
    assert (ask.options.effort, ask.options.strategy, ask.options.answers) == (None, None, 1)
    assert (ask.stream, ask.include_usage) == (False, False)


def test_without_a_seed_equal_requests_are_sampled_apart() -> None:
    """A seed is drawn anew for each request that names none."""
    assert read(BODY).query.seed != read(BODY).query.seed


@pytest.mark.parametrize("body", [{"seed": 0}, {"longthink": {"seed": 0}}])
def test_a_seed_of_zero_is_a_seed(body: dict[str, Any]) -> None:
    """Zero is not the absence of a seed, wherever it stands."""
    assert read({**BODY, **body}).query.seed == 0


def test_null_is_a_field_left_out() -> None:
    """Clients that send every field as null ask for nothing but the defaults."""
    fields = set(ChatRequest.model_fields) - {"model", "messages"}
    nulls = dict.fromkeys([*fields, *WITHOUT_EFFECT, *REFUSED])
    ask = read({**nulls, **BODY})
    assert ask.options == read(BODY).options
    assert ask.query.sampling == LIMITS.sampling


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
)
def test_values_that_ask_for_nothing_are_taken(name: str, value: Any) -> None:
    """Clients send the API's defaults unasked."""
    assert read({**BODY, name: value}).options == read(BODY).options


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("value", [True, 0.5, "x", ["x"], {"type": "x"}], ids=repr)
def test_other_values_are_refused_by_name(name: str, value: Any) -> None:
    """What isn't supported is never dropped in silence."""
    error = refusal({**BODY, name: value})
    assert (error.status, error.param, error.code) == (400, name, "unsupported_parameter")
    assert name in error.message


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_fields_without_effect_still_have_a_type(name: str) -> None:
    """A mistake in them is told, too."""
    assert refusal({**BODY, name: 5}).param == name


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({**BODY, "temperature": 2.1}, "temperature"),
        ({**BODY, "temperature": -0.1}, "temperature"),
        ({**BODY, "temperature": "1"}, "temperature"),
        ({**BODY, "top_p": 0}, "top_p"),
        ({**BODY, "top_p": 1.01}, "top_p"),
        ({**BODY, "max_tokens": 0}, "max_tokens"),
        ({**BODY, "max_tokens": 1.5}, "max_tokens"),
        ({**BODY, "max_tokens": True}, "max_tokens"),
        ({**BODY, "max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({**BODY, "stop": ["a"] * 5}, "stop"),
        ({**BODY, "stop": ""}, "stop"),
        ({**BODY, "stop": ["a", ""]}, "stop[1]"),
        ({**BODY, "stop": 5}, "stop"),
        ({**BODY, "seed": 1 << 63}, "seed"),
        ({**BODY, "seed": 1, "longthink": {"seed": 2}}, "seed"),
        (programs(inputs=[]), "longthink.code.inputs"),
        (programs(), "longthink.code.inputs"),
        (programs(inputs=["x"] * 33), "longthink.code.inputs"),
        (programs(inputs=["1"], entry="f"), "longthink.code.inputs"),
        (programs(inputs=["[1"], entry="f"), "longthink.code.inputs"),
        (programs(inputs=["[1]"], entry="f()"), "longthink.code.entry"),
        (programs(inputs=[1]), "longthink.code.inputs[0]"),
        (programs(inputs=["x"], language="C"), "longthink.code.language"),
        ({**BODY, "n": 0}, "n"),
        ({**BODY, "n": 129}, "n"),
        ({**BODY, "stream": "yes"}, "stream"),
        ({**BODY, "stream_options": {"include_usage": True}}, "stream_options"),
        ({**BODY, "stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        (
            {**BODY, "stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({**BODY, "reasoning_effort": "extreme"}, "reasoning_effort"),
        ({**BODY, "longthink": []}, "longthink"),
        ({**BODY, "longthink": {"inner": "x"}}, "longthink.inner"),
        ({**BODY, "longthink": {"strategy": ""}}, "longthink.strategy"),
        (budget(completion_tokens=0), "longthink.budget.completion_tokens"),
        (budget(candidates=0), "longthink.budget.candidates"),
        (budget(candidates=4097), "longthink.budget.candidates"),
        (budget(candidates=10**13), "longthink.budget.candidates"),
        (budget(reward_tokens=-1), "longthink.budget.reward_tokens"),
        (budget(deadline_seconds=0), "longthink.budget.deadline_seconds"),
        (budget(usd=0), "longthink.budget.usd"),
        (budget(usd=0.0000009), "longthink.budget.usd"),
        (budget(usd="1"), "longthink.budget.usd"),
        (budget(tokens=5), "longthink.budget.tokens"),
        ({**BODY, "messages": "hi"}, "messages"),
        ({**BODY, "messages": ["hi"]}, "messages[0]"),
        ({**BODY, "messages": [{"role": "user"}]}, "messages[0].content"),
        ({**BODY, "messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({**BODY, "messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({**BODY, "messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        (
            {**BODY, "messages": [{"role": "user", "content": "x", "name": "Ann"}]},
            "messages[0].name",
        ),
        (
            {**BODY, "messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages[0].content[0].text",
        ),
        ({**BODY, "x" * 9000: 1}, "x" * 63 + "…"),
    ],
)
def test_what_cannot_be_honoured_is_refused_where_it_stands(body: Any, param: str) -> None:
    """The error says which field, down to the element of a list."""
    error = refusal(body)
    assert (error.status, error.param) == (400, param)
    assert len(error.message) < 400


def test_as_many_candidates_as_a_search_can_plan_may_be_asked_for() -> None:
    """The bound itself is taken; one more is refused, with the bound in the message."""
    assert read(budget(candidates=4096)).options.budget.candidates == 4096
    assert "less than or equal to 4096, not 4097" in refusal(budget(candidates=4097)).message


def test_a_reply_can_be_sent_back_as_it_came() -> None:
    """An assistant's message may have its empty fields, and thinking that is left out again."""
    echoed: dict[str, Any] = {
        "role": "assistant",
        "content": "42",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "reasoning_content": "4 of 4 candidates",
    }
    ask = read({**BODY, "messages": [echoed, *BODY["messages"]]})
    assert [message.content for message in ask.query.messages] == ["42", "?"]


@pytest.mark.parametrize(
    ("usd", "micro"),
    [
        (0.000001, 1),
        (0.1, 100_000),
        (0.29, 290_000),
        (1.1, 1_100_000),
        (0.0000019, 1),
        (7, 7_000_000),
    ],
)
def test_dollars_are_counted_in_whole_micro_dollars(usd: float, micro: int) -> None:
    """What counts is the decimal that was written, cut below a millionth, and not its float."""
    assert read(budget(usd=usd)).options.budget.micro_usd == micro


@UNHURRIED
@given(st.integers(1, 10**12))
def test_any_whole_number_of_micro_dollars_survives(micro: int) -> None:
    """What a reply says of a budget in dollars is read back as the same budget."""
    assert read(budget(usd=micro / 1_000_000)).options.budget.micro_usd == micro


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["user", "text", "m", "low", 1, 0.5]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=3)
            | st.sampled_from(
                [*ChatRequest.model_fields, *REFUSED, "role", "content", "type", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@UNHURRIED
@given(JSON)
@example([])
@example({"": {}})
def test_any_json_is_taken_or_refused(body: Any) -> None:
    """Whatever it says, it is a request or a 4xx; it is never an error of the service's own."""
    assert verdict(body) in {200, 400, 404}


@UNHURRIED
@given(st.dictionaries(st.sampled_from([*ChatRequest.model_fields, *REFUSED]), JSON, max_size=3))
def test_any_value_of_any_field_is_taken_or_refused(fields: dict[str, Any]) -> None:
    """The same around a request that is right otherwise."""
    assert verdict({**BODY, **fields}) in {200, 400, 404}


@UNHURRIED
@given(st.binary(max_size=200))
@example(b'{"model":"\xff"}')
@example(b'{"model":"\\ud800"}')
@example(b"\x00")
@example(b"[" * 100_000)
def test_any_bytes_are_refused(body: bytes) -> None:
    """Bytes that are no request are a 400, whatever they are."""
    with pytest.raises(ApiError) as caught:
        parse(body, model=MODEL, limits=LIMITS)
    assert caught.value.status == 400
