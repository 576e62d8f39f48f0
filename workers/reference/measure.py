"""How good the two models are, measured with vLLM on the test split, for the model cards."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from planner import prompts
from workers.reference import figures, synthetic
from workers.reference.figures import Candidate, Sampled
from workers.reference.grading import Grader, Solution
from workers.reference.lessons import ask
from workers.reference.sampling import Reply, Sampler, Sampling
from workers.reference.synthetic import Kind, Query

KINDS: tuple[Kind, ...] = ("easy", "hard", "compound")
_CANDIDATES = 16
_SHOWN = 4
_LONGEST = 320
_LONGEST_PLAN = 640


def measure(reasoner: Path, prm: Path, count: int, seed: int) -> dict[str, dict[str, float]]:
    """Figures by kind of query, and of planning, refining and judging, over `count` queries."""
    drawn = {kind: synthetic.queries("test", kind, count, seed) for kind in KINDS}
    sampler = Sampler(reasoner, seed)
    how = Sampling(_CANDIDATES, max_tokens=_LONGEST)
    replies = {
        kind: sampler.sample([ask(query.question) for query in drawn[kind]], how) for kind in KINDS
    }
    found = {
        "plan": _planning(sampler, drawn["compound"]),
        "refine": _refining(sampler, drawn["hard"], replies["hard"]),
        "judge": _judging(sampler, drawn["hard"], replies["hard"]),
    }
    grader = Grader(prm)
    graded = {kind: _graded(grader, drawn[kind], replies[kind]) for kind in KINDS}
    return {kind: figures.search_figures(graded[kind]) for kind in KINDS} | found


def parse_plan(text: str) -> list[dict[str, Any]] | None:
    """The steps of a written plan, or None where they aren't a plan in the form asked for."""
    with suppress(json.JSONDecodeError, TypeError, KeyError):
        known: set[str] = set()
        steps: list[dict[str, Any]] = json.loads(text)["steps"]
        for step in steps:
            if not isinstance(step["question"], str) or not set(step["needs"]) <= known:
                return None
            known.add(str(step["id"]))
        return steps or None
    return None


def _graded(
    grader: Grader, queries: Sequence[Query], replies: Sequence[Sequence[Reply]]
) -> list[Sampled]:
    solutions = [
        Solution(query.question, reply.text)
        for query, each in zip(queries, replies, strict=True)
        for reply in each
    ]
    scores = iter(grader.grade(solutions))
    return [
        Sampled(query, [Candidate(r.text, r.tokens, next(scores)) for r in each])
        for query, each in zip(queries, replies, strict=True)
    ]


def _planning(sampler: Sampler, queries: Sequence[Query]) -> dict[str, float]:
    """Plans written once each, then every step answered once, and by a majority of four."""
    written = sampler.sample(
        [prompts.plan_messages(ask(query.question)) for query in queries],
        Sampling(1, max_tokens=_LONGEST_PLAN),
    )
    plans = [parse_plan(each[0].text) for each in written]
    same = [
        plan is not None and [step["question"] for step in plan] == [s.question for s in query.plan]
        for plan, query in zip(plans, queries, strict=True)
    ]
    found = {
        "valid": _share([plan is not None for plan in plans]),
        "exact": _share(same),
        "tokens": sum(each[0].tokens for each in written) / len(written),
    }
    for votes in (1, _SHOWN):
        answers = _answer_plans(sampler, plans, votes)
        found[f"answered_by_{votes}"] = _share(
            [answer == query.answer for answer, query in zip(answers, queries, strict=True)]
        )
    return found


def _answer_plans(
    sampler: Sampler, plans: Sequence[Sequence[Mapping[str, object]] | None], votes: int
) -> list[str | None]:
    """The last answer of each plan, its steps answered in order by a majority of `votes`."""
    answers: list[dict[str, str]] = [{} for _ in plans]
    last: list[str | None] = [None] * len(plans)
    longest = max((len(plan) for plan in plans if plan), default=0)
    for depth in range(longest):
        asked = list(_asked(plans, answers, depth))
        replies = sampler.sample([ask(question) for _, question in asked], Sampling(votes))
        for (place, _), each in zip(asked, replies, strict=True):
            answer = figures.majority([Candidate(r.text, r.tokens, ()) for r in each])
            plan = plans[place] or ()
            last[place] = answer
            if answer is not None:
                answers[place][str(plan[depth]["id"])] = answer
    return last


def _asked(
    plans: Sequence[Sequence[Mapping[str, object]] | None],
    answers: Sequence[Mapping[str, str]],
    depth: int,
) -> Iterator[tuple[int, str]]:
    """Place and question, filled in, of every plan whose step at this depth can be asked."""
    for place, plan in enumerate(plans):
        if plan and depth < len(plan):
            with suppress(KeyError):
                yield place, synthetic.fill(str(plan[depth]["question"]), answers[place])


def _refining(
    sampler: Sampler, queries: Sequence[Query], replies: Sequence[Sequence[Reply]]
) -> dict[str, float]:
    """The first sample of each query, and what it becomes once it or four are shown again."""
    found = {
        "first": _share(
            [synthetic.right(q, r[0].text) for q, r in zip(queries, replies, strict=True)]
        )
    }
    for shown in (1, _SHOWN):
        asked = [
            prompts.refine_messages(ask(q.question), [reply.text for reply in each[:shown]])
            for q, each in zip(queries, replies, strict=True)
        ]
        better = sampler.sample(asked, Sampling(1))
        found[f"refined_from_{shown}"] = _share(
            [synthetic.right(q, r[0].text) for q, r in zip(queries, better, strict=True)]
        )
    return found


def _judging(
    sampler: Sampler, queries: Sequence[Query], replies: Sequence[Sequence[Reply]]
) -> dict[str, float]:
    """How often the judge picks a right one of four, where some are right and some wrong."""
    mixed = []
    for query, each in zip(queries, replies, strict=True):
        rights = [synthetic.right(query, reply.text) for reply in each[:_SHOWN]]
        if any(rights) and not all(rights):
            mixed.append((query, [reply.text for reply in each[:_SHOWN]], rights))
    asked = [prompts.judge_messages(ask(query.question), texts) for query, texts, _ in mixed]
    said = sampler.sample(asked, Sampling(1, max_tokens=16))
    picks = [prompts.parse_judgement(each[0].text, _SHOWN) for each in said]
    chosen = [pick is not None and mixed[i][2][pick] for i, pick in enumerate(picks)]
    return {
        "right": _share(chosen),
        "by_chance": sum(sum(rights) / _SHOWN for _, _, rights in mixed) / max(1, len(mixed)),
        "queries": float(len(mixed)),
    }


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / max(1, len(flags))
