"""Traces of searches that nobody ran: of a plan, of a large tree, of independent samples."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from services.trace import Event, Kind

SPENT = ("prompt_tokens", "cached_tokens", "completion_tokens", "reward_tokens", "candidates")
HOSTILE = '<img src=x onerror="document.title=\'run\'"><script>document.title="run"</script>'
"""What a model might write; shown as text, it does nothing."""


class Told:
    """A trace that is written event by event, with what was spent counted along."""

    def __init__(self, question: str, *, strategy: str, **budget: float) -> None:
        self.events: list[Event] = []
        self.seconds = 0.0
        self.spent = dict.fromkeys((*SPENT, "micro_usd"), 0)
        self._random = random.Random(7)
        limits = dict.fromkeys(
            ("completion_tokens", "reward_tokens", "candidates", "micro_usd", "deadline_seconds")
        )
        self.say(
            Kind.OPENED,
            query={"messages": [{"role": "user", "content": question}], "seed": 0},
            effort={
                "strategy": strategy,
                "selector": "weighted",
                "stop": "certain",
                "candidates": 16,
                "budget": {**limits, **budget},
            },
            prompt_tokens=60,
        )

    def say(self, kind: Kind, **data: Any) -> None:
        """Write one event."""
        self.events.append(Event(len(self.events), self.seconds, kind, data))

    def sample(
        self,
        path: tuple[int, ...],
        text: str,
        *,
        finish: str = "stop",
        scores: tuple[float, ...] = (),
        status: str = "done",
    ) -> None:
        """Ask for one candidate, be told of it, and of its score if it has one."""
        name = ".".join(map(str, path))
        self.say(Kind.ASKED, room=16, tasks=[f"expand:{name}"])
        self.seconds += self._random.uniform(0.002, 0.02)
        tokens = max(1, len(text) // 3)
        made: dict[str, Any] | None = {
            "path": list(path),
            "text": text,
            "token_ids": list(range(tokens)),
            "finish": finish,
            "logprob": -tokens / 9,
            "step_scores": [],
            "score": None,
            "token_confidences": [],
            "answer": None,
        }
        cost = dict.fromkeys(SPENT, 0) | {
            "prompt_tokens": 60,
            "cached_tokens": 32,
            "completion_tokens": tokens,
            "candidates": int(finish == "stop"),
            "micro_usd": 2 * tokens,
        }
        failed = status == "failed"
        error = "The worker was lost." if failed else None
        if failed:
            made = None
        self._told(f"expand:{name}", status, made, cost, error, f"generator-{path[-1] % 2}")
        if scores and made is not None:
            made = {**made, "step_scores": list(scores), "score": scores[-1]}
            cost = dict.fromkeys(SPENT, 0) | {"reward_tokens": 80 + tokens, "micro_usd": tokens}
            self._told(f"grade:{name}", "done", made, cost, None, "reward-0")

    def _told(
        self,
        name: str,
        status: str,
        made: Mapping[str, Any] | None,
        cost: Mapping[str, int],
        error: str | None,
        worker: str,
    ) -> None:
        for key, value in cost.items():
            self.spent[key] += value
        self.say(
            Kind.TOLD,
            id=name,
            status=status,
            candidate=made,
            cost=cost,
            error=error,
            worker=worker,
            same=[],
            notes=[],
        )

    def stand(self, answer: str | None, votes: Mapping[str, tuple[int, float]]) -> None:
        """Say how things stand."""
        self.say(
            Kind.STANDING,
            finished=sum(count for count, _ in votes.values()),
            planned=16,
            running=2,
            answer=answer,
            confidence=0.6,
            votes=_votes(votes),
            spent=dict(self.spent),
        )

    def close(
        self, answer: str, path: tuple[int, ...], votes: Mapping[str, tuple[int, float]]
    ) -> None:
        """Say what it came to."""
        self.seconds += 0.05
        self.say(
            Kind.CLOSED,
            outcome={
                "ranked": [list(path)],
                "answer": answer,
                "confidence": 0.93,
                "votes": _votes(votes),
                "stopped": "confident",
                "selector": "weighted",
                "notes": ["Two formulas were found to be the same."],
            },
            spent=dict(self.spent),
            reason=None,
            remarks=[],
        )


def _votes(votes: Mapping[str, tuple[int, float]]) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "count": count, "score": score or None}
        for answer, (count, score) in votes.items()
    ]


STEPS = (
    ("eggs", "How many eggs do 16 hens lay in a week, if each lays 5?", (), "80"),
    ("eaten", "How many eggs are eaten in a week, if 3 are eaten for each breakfast?", (), "21"),
    ("price", "What does one egg cost, if a dozen costs $6?", (), "0.5"),
    ("left", "How many of $eggs eggs are left when $eaten are eaten?", ("eggs", "eaten"), "59"),
    ("money", "How much do $left eggs bring at $price dollars each?", ("left", "price"), "29.5"),
)


def planned(*, closed: bool = True) -> list[Event]:
    """A plan of five steps: samples in most, a tree in one, a plan made again before them.

    Unless it is `closed`, the last step has only begun.
    """
    told = Told(
        "Sixteen hens lay 5 eggs a week each. Three eggs are eaten for breakfast every day, and "
        "the rest are sold at $6 a dozen. How much money do they bring in a week?",
        strategy="plan",
        completion_tokens=6000,
        reward_tokens=20_000,
        deadline_seconds=10.0,
    )
    draw = random.Random(3)
    for number in range(3):
        told.sample((0, number), '{"steps": [{"id": "eggs", "question": "…"}]}')
    told.say(
        Kind.DECIDED,
        what="decompose",
        why="The question asks for several things, one after another.",
        figures={"parts": 5, "agreement": 0.25},
    )
    told.say(
        Kind.PLANNED,
        path=[1],
        notes=["A step that needs one which doesn't exist was repaired."],
        steps=[
            {"id": name, "question": question, "needs": list(needs), "path": [1, place]}
            for place, (name, question, needs, _) in enumerate(STEPS)
        ],
    )
    for place, (name, question, _, answer) in enumerate(STEPS):
        asked = question
        for other, *_, known in STEPS:
            asked = asked.replace(f"${other}", known)
        step = {"path": [1, place], "id": name, "question": asked, "strategy": "best_of_n"}
        last = place == len(STEPS) - 1
        told.say(Kind.STEP, **step, state="begun", tokens=0, share=1000)
        if name == "left":
            _grow(told, (1, place), draw, answer)
        else:
            for number in range(5 if last and not closed else 12):
                right = draw.random() < 0.75
                score = draw.uniform(0.55, 0.98) if right else draw.uniform(0.03, 0.5)
                work = f"{asked}\nThat is simple.\n#### {answer if right else draw.randint(2, 99)}"
                scores = tuple(min(1.0, score + extra) for extra in (0.1, 0.02, 0.0))
                broken = number == 4
                told.sample(
                    (1, place, number), work, scores=scores, status="failed" if broken else "done"
                )
                if number % 3 == 0:
                    told.stand(None, {})
        if not last or closed:
            told.say(
                Kind.STEP,
                **step,
                state="ended",
                tokens=draw.randint(300, 900),
                share=1000,
                answer=answer,
                confidence=draw.uniform(0.7, 0.99),
                stopped="confident",
            )
    if closed:
        told.close("29.5", (1, 4, 0), {"29.5": (9, 7.4), "30": (2, 0.7), "14.5": (1, 0.1)})
    else:
        told.say(Kind.ASKED, room=4, tasks=[f"expand:1.4.{number}" for number in range(5, 12)])
    return told.events


def nested() -> list[Event]:
    """The plan with its last step under way, which has been planned itself, and then again."""
    events = planned(closed=False)
    for ids in (("half", "rest"), ("other",)):
        steps = [
            {"id": name, "question": f"Which {name}?", "needs": [], "path": [1, 4, 9, place]}
            for place, name in enumerate(ids)
        ]
        told = {"path": [1, 4, 9], "steps": steps, "notes": []}
        events.append(Event(len(events), events[-1].seconds, Kind.PLANNED, told))
    return events


def _grow(told: Told, root: tuple[int, ...], draw: random.Random, answer: str) -> None:
    """A tree of three levels below `root`."""
    frontier: list[tuple[tuple[int, ...], str, tuple[float, ...]]]
    frontier = [((*root, place), "", ()) for place in range(4)]
    for level in range(3):
        grown = []
        for path, text, scores in frontier:
            longer = f"{text}Line {level + 1} of it: 80 - 21 is close to {80 - 21 + path[-1]}.\n"
            more: tuple[float, ...] = (*scores, draw.uniform(0.1, 0.97))
            ends = level == 2
            longer += f"#### {answer if more[-1] > 0.4 else 60}" if ends else ""
            told.sample(path, longer, finish="stop" if ends else "step", scores=more)
            grown += [((*path, child), longer, more) for child in range(2)]
        frontier = grown


def large(nodes: int = 2000) -> list[Event]:
    """A tree search of so many nodes, of up to nine levels."""
    told = Told("A hard one?", strategy="mcts", completion_tokens=400_000, candidates=2000)
    draw = random.Random(11)
    grown: list[tuple[tuple[int, ...], str, int]] = [((), "", 0)]
    children: dict[tuple[int, ...], int] = {}
    for number in range(nodes):
        places = [(path, text) for path, text, made in grown[-240:] if len(path) < 9]
        path, text = places[draw.randrange(len(places))] if number > 20 else ((), "")
        place = children[path] = children.get(path, -1) + 1
        longer = f"{text}Step {len(path) + 1}: it follows that x is {draw.randint(1, 99)}.\n"
        ends = (len(path) > 3 and draw.random() < 0.45) or len(path) == 8
        longer += f"#### {draw.choice((42, 42, 42, 41, 40))}" if ends else ""
        child = (*path, place)
        told.sample(
            child, longer, finish="stop" if ends else "step", scores=(draw.betavariate(2, 1.4),)
        )
        if not ends:
            grown.append((child, longer, 0))
        if number % 50 == 0:
            told.stand("42", {"42": (number // 10 + 1, number / 12), "41": (number // 40, 1.0)})
    chosen = next(
        tuple(event.data["candidate"]["path"])
        for event in reversed(told.events)
        if event.kind is Kind.TOLD and event.data["candidate"]["finish"] == "stop"
    )
    told.close("42", chosen, {"42": (200, 150.5), "41": (70, 21.0), "40": (64, 20.0)})
    return told.events


def samples(count: int = 24) -> list[Event]:
    """Independent samples, without scores, one of which is what no page may take for markup."""
    told = Told(f"What is 6 x 7? {HOSTILE}", strategy="majority", candidates=count)
    for number in range(count):
        text = HOSTILE if number == 1 else "6 x 7 = 42"
        told.sample((number,), f"{text}\n#### {HOSTILE if number == 1 else 42 - number % 5 // 4}")
        told.stand("42", {"42": (number + 1, 0.0)})
    told.close("42", (0,), {"42": (count - 5, 0.0), "41": (4, 0.0), HOSTILE: (1, 0.0)})
    return told.events
