"""Every strategy over HTTP: streamed to the official client, and readable in its trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import OpenAI

from planner.search import STRATEGIES
from services.evaluation.retrace import retrace
from tests.e2e.conftest import MODEL

OVER_STEPS = ("beam", "dvts", "rebase", "particles", "mcts")
"""Strategies, with all that are named after them, whose nodes continue one another's text."""


def ask(openai: OpenAI, question: str, **ours: Any) -> tuple[str, str, dict[str, Any]]:
    """What was shown of the work, the answer's text, and our object."""
    stream = openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        max_tokens=320,
        seed=11,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"longthink": {"budget": {"candidates": 8}, **ours}},
    )
    work, text, ours = "", "", {}
    for chunk in stream:
        said = chunk.model_dump()
        for choice in said["choices"]:
            work += choice["delta"].get("reasoning_content") or ""
            text += choice["delta"].get("content") or ""
        ours = said.get("longthink") or ours
    return work, text, ours


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_is_streamed_and_its_trace_tells_all(
    openai: OpenAI, http: httpx.Client, hard: Callable[[int], list[str]], strategy: str
) -> None:
    """There is an answer, each node says where it comes from, and a replay ends the same way."""
    work, text, reply = ask(openai, hard(1)[0], strategy=strategy)
    assert text
    assert work or strategy == "single"
    trace = http.get(f"/v1/traces/{reply['trace_id']}").raise_for_status().json()
    nodes = {
        tuple(one["data"]["candidate"]["path"]): one["data"]["candidate"]["text"]
        for one in trace["events"]
        if one["kind"] == "told" and one["data"]["candidate"]
    }
    assert nodes
    deeper = [path for path in nodes if len(path) > 1 and strategy.startswith(OVER_STEPS)]
    assert bool(deeper) == strategy.startswith(OVER_STEPS)
    assert all(nodes[path].startswith(nodes[path[:-1]]) for path in deeper)
    spent = reply["spent"]
    told = [one["data"]["cost"] for one in trace["events"] if one["kind"] == "told"]
    for part in ("completion_tokens", "reward_tokens", "candidates"):
        assert sum(cost[part] for cost in told) == spent[part]
    assert retrace(trace).same


@pytest.mark.parametrize(
    "ours",
    [
        {"strategy": "majority", "selector": "judge", "stop": "none"},
        {"strategy": "majority", "selector": "confidence"},
        {"strategy": "majority", "stop": "window:4"},
        {"strategy": "majority", "stop": "consensus:3+deadline"},
        {"strategy": "majority", "stop": "marginal:0.01"},
        {"strategy": "majority", "selector": "confidence", "stop": "confidence:90"},
    ],
    ids=str,
)
def test_a_selector_or_rule_works_over_http(
    openai: OpenAI, http: httpx.Client, hard: Callable[[int], list[str]], ours: dict[str, Any]
) -> None:
    """The reply names the selector that chose, and its trace leads to the same answer again."""
    budget = {"candidates": 16, "deadline_seconds": 60}
    _, text, reply = ask(openai, hard(1)[0], **ours, budget=budget)
    assert text
    assert reply["selector"] == ours.get("selector", "majority")
    trace = http.get(f"/v1/traces/{reply['trace_id']}").raise_for_status().json()
    assert retrace(trace).same
