"""From what a run came to, to what OpenAI's clients read.

Every reply has at least one choice. A run that ended at its budget or its deadline before anything
could be shown has one with no content and the finish reason `length`, which is what OpenAI says of
an answer cut before its first visible word. A run that had all it needed and still has nothing to
show lost every task to failures: that is a 503, and it isn't worth the same compute once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planner.domain import CUT_SHORT, Cost, Finish, Outcome
from services.api.errors import in_vain
from services.run import Reply


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer, as it is shown: `tokens` is how many it took to write."""

    content: str
    finish_reason: str
    tokens: int


def choices(outcome: Outcome, most: int) -> tuple[Choice, ...]:
    """The best `most` distinct answers, best first; fewer where there are fewer.

    Raises ApiError, 503, when every task failed.
    """
    if outcome.ranked:
        return tuple(
            Choice(
                content=candidate.text,
                finish_reason="stop" if candidate.finish is Finish.STOP else "length",
                tokens=len(candidate.token_ids),
            )
            for candidate in outcome.ranked[:most]
        )
    if outcome.stopped in CUT_SHORT:
        return (Choice("", "length", 0),)
    raise in_vain(
        "Every worker that was asked failed, so there is no answer to show.", "workers_failed"
    )


def usage(spent: Cost, shown: tuple[Choice, ...]) -> dict[str, Any]:
    """OpenAI's usage, over all branches. What no choice shows counts as reasoning."""
    visible = sum(choice.tokens for choice in shown)
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
        "completion_tokens_details": {
            "reasoning_tokens": max(0, spent.completion_tokens - visible)
        },
        "prompt_tokens_details": {"cached_tokens": spent.cached_tokens},
    }


def extension(reply: Reply, *, answers: int, seconds: float) -> dict[str, Any]:
    """The `longthink` object. `answers` is how many were asked for, `seconds` how long it took.

    `confidence` is calibrated where `calibrated` says so, else as raw as `raw_confidence`.
    """
    outcome, spent = reply.outcome, reply.spent
    return {
        "answer": outcome.answer,
        "confidence": outcome.confidence if reply.calibrated is None else reply.calibrated,
        "calibrated": reply.calibrated is not None,
        "raw_confidence": outcome.confidence,
        "votes": [
            {"answer": vote.answer, "count": vote.count, "score": vote.score}
            for vote in outcome.votes
        ],
        "silent": outcome.silent,
        "stopped": outcome.stopped,
        "strategy": reply.effort.strategy,
        "selector": outcome.selector or reply.effort.selector,
        "stop": reply.effort.stop,
        "spent": {
            "completion_tokens": spent.completion_tokens,
            "prompt_tokens": spent.prompt_tokens,
            "reward_tokens": spent.reward_tokens,
            "candidates": spent.candidates,
            "usd": _dollars(spent.micro_usd),
            "seconds": round(seconds, 6),
            "unreported_calls": reply.unreported,
        },
        "budget": _budget(reply),
        "reused": reply.reused,
        "notes": [*outcome.notes, *_shortfall(len(outcome.ranked), answers)],
        "trace_id": reply.trace_id,
    }


def completion(
    reply: Reply, shown: tuple[Choice, ...], *, model: str, created: int, ours: dict[str, Any]
) -> dict[str, Any]:
    """The body of a plain reply, with `ours` as its `longthink` object."""
    return {
        "id": f"chatcmpl-{reply.trace_id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.content, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(shown)
        ],
        "usage": usage(reply.spent, shown),
        "longthink": ours,
    }


def _budget(reply: Reply) -> dict[str, Any]:
    """The limits, and what of them an earlier request on the same query had spent."""
    budget = reply.budget
    limits = {
        "completion_tokens": budget.completion_tokens,
        "reward_tokens": budget.reward_tokens,
        "candidates": budget.candidates,
        "deadline_seconds": budget.deadline_seconds,
        "usd": None if budget.micro_usd is None else _dollars(budget.micro_usd),
    }
    if reply.before is None:
        return limits
    spent = reply.before.spent
    before = {
        "trace_id": reply.before.trace_id,
        "completion_tokens": spent.completion_tokens,
        "reward_tokens": spent.reward_tokens,
        "candidates": spent.candidates,
        "usd": _dollars(spent.micro_usd),
    }
    return {**limits, "spent_before": before}


def _dollars(micro_usd: int) -> float:
    """The nearest float prints as the exact decimal, up to billions of dollars."""
    return micro_usd / 1_000_000


def _shortfall(found: int, asked: int) -> list[str]:
    if not 0 < found < asked:
        return []
    return [f"{asked} distinct answers were asked for; the candidates gave {found}."]
