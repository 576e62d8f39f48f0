"""How results and outcomes are written into a trace, and read back from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from planner.domain import (
    Budget,
    Candidate,
    Code,
    Cost,
    Finish,
    Message,
    Outcome,
    Query,
    Result,
    Sampling,
)
from planner.effort import Effort

_VOTES = 32
_LETTERS = 200


def query_data(query: Query) -> dict[str, Any]:
    """A query as JSON data."""
    return asdict(query)


def read_query(data: Mapping[str, Any]) -> Query:
    """The query that `query_data` wrote."""
    code = data.get("code")  # of which older traces say nothing
    sampling = {**data["sampling"], "stop": tuple(data["sampling"]["stop"])}
    return Query(
        tuple(Message(**message) for message in data["messages"]),
        Sampling(**sampling),
        data["seed"],
        None if code is None else Code(**{**code, "inputs": tuple(code["inputs"])}),
    )


def effort_data(effort: Effort) -> dict[str, Any]:
    """A settled effort as JSON data."""
    return asdict(effort)


def read_effort(data: Mapping[str, Any]) -> Effort:
    """The effort that `effort_data` wrote."""
    return Effort(**{**data, "budget": Budget(**data["budget"])})


def result_data(result: Result) -> dict[str, Any]:
    """A result as JSON data."""
    return {
        "id": result.task_id,
        "status": result.status,
        "candidate": None if result.candidate is None else _fields(result.candidate),
        "cost": _fields(result.cost),
        "error": result.error,
        "worker": result.worker,
        "same": [list(group) for group in result.same],
        "notes": list(result.notes),
    }


def read_result(data: Mapping[str, Any]) -> Result:
    """The result that `result_data` wrote."""
    candidate = data["candidate"]
    return Result(
        data["id"],
        data["status"],
        None if candidate is None else _read_candidate(candidate),
        Cost(**data["cost"]),
        data["error"],
        data["worker"],
        tuple(tuple(group) for group in data["same"]),
        tuple(data["notes"]),
    )


def standing_data(outcome: Outcome) -> dict[str, Any]:
    """How things stand, as JSON data: the first votes, and of a long answer its beginning.

    It is written down many times a second, and answers may be whole programs.
    """
    votes = [{**asdict(vote), "answer": _short(vote.answer)} for vote in outcome.votes[:_VOTES]]
    return {"answer": _short(outcome.answer), "confidence": outcome.confidence, "votes": votes}


def outcome_data(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON data; its candidates by path, as the results before it hold their text."""
    return {
        "ranked": [list(candidate.path) for candidate in outcome.ranked],
        "answer": outcome.answer,
        "confidence": outcome.confidence,
        "votes": [asdict(vote) for vote in outcome.votes],
        "stopped": outcome.stopped,
        "selector": outcome.selector,
        "notes": list(outcome.notes),
    }


def _read_candidate(data: Mapping[str, Any]) -> Candidate:
    return Candidate(
        path=tuple(data["path"]),
        text=data["text"],
        token_ids=tuple(data["token_ids"]),
        finish=Finish(data["finish"]),
        logprob=data["logprob"],
        step_scores=tuple(data["step_scores"]),
        score=data["score"],
        token_confidences=tuple(data["token_confidences"]),
        answer=data["answer"],
    )


def _fields(flat: Candidate | Cost) -> dict[str, Any]:
    """As `asdict`, which would copy every token, of what has nothing inside but plain values."""
    return {one.name: getattr(flat, one.name) for one in fields(flat)}


def _short(answer: str | None) -> str | None:
    return answer if answer is None or len(answer) <= _LETTERS else f"{answer[: _LETTERS - 1]}…"
