"""OpenAI's own client gets a plain reply from the service, with every field it knows and ours."""

from __future__ import annotations

from dataclasses import replace

from planner.domain import Budget, Message, Outcome, Sampling, Stopped
from services.run import Reply
from tests.contract.scripted_service import (
    BODY,
    CHAT,
    MODEL,
    OUTCOME,
    SPENT,
    ScriptedRun,
    serving,
)


async def test_the_best_candidate_is_the_message() -> None:
    """The client reads the winning candidate, why it ended, and the usage over all branches."""
    async with serving() as service:
        reply = await service.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "What is 6 x 7?"}]
        )
    (choice,) = reply.choices
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert (choice.message.role, choice.message.content) == ("assistant", "6 x 7 = 42\n#### 42")
    assert (reply.object, reply.model) == ("chat.completion", MODEL)
    usage = reply.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (80, 47, 127)
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 47 - 12
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 64


async def test_the_longthink_object_says_how_the_answer_was_found() -> None:
    """Beside OpenAI's fields stand the answer, its votes, the spending and why it stopped."""
    budget = {"completion_tokens": 4000, "candidates": 4, "deadline_seconds": 2.5, "usd": 0.25}
    async with serving() as service:
        reply = await service.openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is 6 x 7?"}],
            extra_body={
                "longthink": {"strategy": "majority", "selector": "weighted", "budget": budget}
            },
        )
    ours = (reply.model_extra or {})["longthink"]
    seconds = ours["spent"].pop("seconds")
    assert 0 < seconds < 5
    assert ours == {
        "answer": "42",
        "confidence": 0.75,
        "calibrated": False,
        "raw_confidence": 0.75,
        "votes": [
            {"answer": "42", "count": 3, "score": 2.5},
            {"answer": "43", "count": 1, "score": 0.2},
        ],
        "silent": 0,
        "stopped": "complete",
        "strategy": "majority",
        "selector": "weighted",
        "stop": "certain",
        "spent": {
            "completion_tokens": 47,
            "prompt_tokens": 80,
            "reward_tokens": 130,
            "candidates": 4,
            "usd": 0.012345,
            "unreported_calls": 0,
        },
        "budget": {**budget, "reward_tokens": None},
        "reused": 0,
        "notes": ["a note"],
        "trace_id": service.reasoner.runs[0].trace.id,
    }


async def test_the_request_id_is_the_trace_id() -> None:
    """The client finds the trace by the id of its response, whatever id it sent itself."""
    async with serving() as service:
        raw = await service.openai.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": "?"}],
            extra_headers={"x-request-id": "mine"},
        )
    trace_id = service.reasoner.runs[0].trace.id
    assert raw.headers.get_list("x-request-id") == [trace_id]
    assert raw.parse().id == f"chatcmpl-{trace_id}"


async def test_every_honoured_field_reaches_the_search() -> None:
    """Sampling, seed, effort and all of `longthink` arrive as they were sent."""
    async with serving() as service:
        await service.openai.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "What is"}]},
                {"role": "assistant", "content": "What?"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "6 x"}, {"type": "text", "text": "7"}],
                },
            ],
            temperature=0.5,
            top_p=0.9,
            max_completion_tokens=77,
            stop=["\n\n", "END"],
            seed=-5,
            n=2,
            reasoning_effort="low",
            extra_body={
                "longthink": {
                    "strategy": "best_of_n",
                    "selector": "best",
                    "stop": "beta:0.9",
                    "budget": {"reward_tokens": 0, "usd": 0.000001},
                }
            },
        )
    (run,) = service.reasoner.runs
    assert run.query.messages == (
        Message("system", "Be brief."),
        Message("user", "What is"),
        Message("assistant", "What?"),
        Message("user", "6 x\n7"),
    )
    assert run.query.sampling == Sampling(0.5, 0.9, 77, ("\n\n", "END"))
    assert run.query.seed == -5
    assert run.options.effort == "low"
    assert (run.options.strategy, run.options.selector) == ("best_of_n", "best")
    assert run.options.stop == "beta:0.9"
    assert run.options.budget == Budget(reward_tokens=0, micro_usd=1)
    assert run.options.answers == 2


async def test_n_asks_for_distinct_answers_best_first() -> None:
    """With n there are so many choices, and every one of them is visible, not reasoning."""
    async with serving() as service:
        reply = await service.openai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "?"}], n=2
        )
    assert [choice.message.content for choice in reply.choices] == [
        "6 x 7 = 42\n#### 42",
        "6 x 7 = 43\n#### 43",
    ]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "length"]
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 47 - 12 - 11


async def test_fewer_answers_than_n_are_noted() -> None:
    """Where the candidates gave fewer distinct answers than asked for, the reply says so."""
    async with serving() as service:
        response = await service.http.post(CHAT, json={**BODY, "n": 5})
    body = response.json()
    assert len(body["choices"]) == 2
    assert body["longthink"]["notes"][-1] == (
        "5 distinct answers were asked for; the candidates gave 2."
    )


async def test_a_budget_for_nothing_gets_an_empty_answer_cut_for_length() -> None:
    """A budget that no candidate fits in isn't an error: the reply says what stopped it."""

    async def nothing(run: ScriptedRun) -> Reply:
        return run.comes_to(Outcome(stopped=Stopped.BUDGET, selector="weighted"))

    async with serving(nothing) as service:
        response = await service.http.post(CHAT, json=BODY)
    assert response.status_code == 200
    body = response.json()
    assert body["choices"][0]["message"]["content"] == ""
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["longthink"]["stopped"] == "budget"
    assert body["longthink"]["answer"] is None


async def test_when_every_task_failed_the_client_is_asked_not_to_retry() -> None:
    """Compute was spent for nothing: a 503 that OpenAI's client doesn't send again by itself."""

    async def failing(run: ScriptedRun) -> Reply:
        return run.comes_to(Outcome(stopped=Stopped.COMPLETE))

    async with serving(failing, retries=2) as service:
        response = await service.http.post(CHAT, json=BODY)
        assert response.status_code == 503
        assert response.headers["x-should-retry"] == "false"
        assert response.json()["error"]["code"] == "workers_failed"
    assert len(service.reasoner.runs) == 1


async def test_numbers_that_json_has_not_are_null() -> None:
    """A score that is not a number doesn't make the reply unreadable."""

    async def odd(run: ScriptedRun) -> Reply:
        vote = replace(OUTCOME.votes[0], score=float("nan"))
        return run.comes_to(replace(OUTCOME, votes=(vote,)), SPENT)

    async with serving(odd) as service:
        response = await service.http.post(CHAT, json=BODY)
    assert response.json()["longthink"]["votes"] == [{"answer": "42", "count": 3, "score": None}]
