"""Plans: a question split into steps, as a model writes them and as they can be used.

What always holds of a `Plan`: it has a step at least, ids are unlike each other, a step needs only
steps before it, `$id` stands in a question for each that it needs, and the last step needs all
others, if only through others. Whatever a model writes is made to be so, or is no plan.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MOST_STEPS = 32
"""More than these aren't read: no plan is as long as that, but a model may not know how to end."""

_MOST_LETTERS = 100_000
_QUESTION = 8_000
_TRIES = 4 * MOST_STEPS
_OPENING = 32
"""Within so many letters of its brace, an object says that it is the plan."""
_PLACE = re.compile(r"\$\{?(\w+)\}?")
_ID = re.compile(r"[^\W\d]\w{0,31}")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_CAPITAL = re.compile(r"\b[A-Z]\w+")
_NAME = re.compile(r"(?<=[^.?!:\s]\s)[A-Z]\w+")

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "steps": {
                "type": "array",
                "minItems": 1,
                "maxItems": 12,
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string", "pattern": "^[a-z][a-z0-9]{0,7}$"},
                        "question": {"type": "string"},
                        "needs": {"type": "array", "items": {"type": "string"}, "maxItems": 12},
                    },
                    "required": ["id", "question", "needs"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["steps"],
        "additionalProperties": False,
    }
)
"""What the engine holds a model to that writes a plan. It can't say that there are no circles."""


@dataclass(frozen=True, slots=True)
class Step:
    """A question of its own. `$id` in it stands for the answer of a step that it `needs`."""

    id: str
    question: str
    needs: tuple[str, ...] = ()

    def fill(self, answers: Mapping[str, str]) -> str:
        """The question with the answers put in that are known."""
        return _PLACE.sub(
            lambda place: answers.get(place[1], place[0]) if place[1] in self.needs else place[0],
            self.question,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order in which they can be taken. `notes` say what was amiss with it."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    @property
    def last(self) -> Step:
        """The step whose answer is the whole question's."""
        return self.steps[-1]

    def ready(self, done: Mapping[str, object]) -> list[Step]:
        """The steps whose needs are all in `done`, but that aren't themselves."""
        return [s for s in self.steps if s.id not in done and all(n in done for n in s.needs)]

    @property
    def depth(self) -> int:
        """How many steps must be taken one after another."""
        depths: dict[str, int] = {}
        for step in self.steps:
            depths[step.id] = 1 + max((depths[need] for need in step.needs), default=0)
        return max(depths.values())


def read_plan(text: str, question: str) -> Plan | None:
    """The plan that a model wrote, mended where it can be; None where there is none to be found.

    Prose around the JSON is ignored. Of JSON that breaks off the steps are kept that are whole, and
    the question itself, with what they found, is the last.
    """
    notes: list[str] = []
    written, whole = _objects(text[:_MOST_LETTERS])
    steps = _unlike(_lettered(list(_steps(written))), notes)
    if not steps:
        return None
    if not whole:
        notes.append("It broke off, or had too many steps, so the question itself is its last.")
        known = known_question(question, [(step.question, f"${step.id}") for step in steps])
        name = next(
            n
            for n in ("answer", *map("answer{}".format, range(MOST_STEPS + 1)))
            if n not in {step.id for step in steps}
        )
        steps = [*steps, Step(name, known, tuple(step.id for step in steps))]
    steps = _in_order(_known_needs(steps, notes), notes)
    steps = _needed(steps, notes)
    return Plan(tuple(steps), tuple(notes))


_KNOWN = "\n\nWhat is known:\n"


def known_question(question: str, facts: Sequence[tuple[str, str]]) -> str:
    """The question with what is known already: other questions, each with its answer."""
    if not facts:
        return question
    return question + _KNOWN + "\n".join(f"- {q} {a}" for q, a in facts)


def tells_facts(question: str) -> bool:
    """Whether it says what is known already, as `known_question` does."""
    return _KNOWN in question


def faithfulness(plan: Plan, question: str) -> float:
    """How well a plan keeps to its question: the share of numbers and names that both have.

    A number that the plan leaves out, or has of its own, makes every answer wrong that hangs on it,
    whoever solves it. Names count a quarter of that. It is 1 where all of them are in both.
    """
    told = " ".join(_PLACE.sub(" ", step.question) for step in plan.steps)
    numbers = _overlap(Counter(_NUMBER.findall(question)), Counter(_NUMBER.findall(told)))
    return numbers * (0.75 + 0.25 * _names_kept(question, told))


def _names_kept(question: str, told: str) -> float:
    """The share of names that the other text has, too; what begins a sentence may be no name."""
    missing = names = 0
    for one, other in ((question, told), (told, question)):
        found, there = set(_NAME.findall(one)), set(_CAPITAL.findall(other))
        names += len(found)
        missing += len(found - there)
    return 1.0 - missing / names if names else 1.0


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    """The size of what both have against that of what either has (Jaccard, of multisets)."""
    either = (one | other).total()
    return (one & other).total() / either if either else 1.0


def _steps(written: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    """The steps among what was written: what has a question."""
    for found in written:
        question = found.get("question")
        if not isinstance(question, str) or not question.strip():
            continue
        needs = found.get("needs")
        yield Step(
            _name(found.get("id", "")),
            _text(question).strip()[:_QUESTION],
            tuple(_name(need) for need in needs if isinstance(need, str | int))
            if isinstance(needs, list)
            else (),
        )


def _name(written: object) -> str:
    return _text(str(written)).strip().lstrip("$")


def _text(written: str) -> str:
    """It as text that can be encoded: JSON can name half of a character."""
    return written.encode("utf-8", "replace").decode()


def _objects(text: str) -> tuple[list[Mapping[str, Any]], bool]:
    """The JSON objects that may be steps, in order, and whether what they stood in was whole.

    They are those of a list named `steps`, or else any.
    """
    decoder = json.JSONDecoder()
    found: list[Mapping[str, Any]] = []
    whole, place = True, text.find("{")
    for _ in range(_TRIES):
        if place == -1:
            break
        try:
            read, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            # Prose, or JSON that breaks off: there may be whole objects in it.
            whole = whole and '"steps"' not in text[place : place + _OPENING]
            end = place + 1
        else:
            steps = read.get("steps")
            inner = steps if isinstance(steps, list) else [read]
            found += (one for one in inner if isinstance(one, dict))
        place = text.find("{", end)
    return found[:MOST_STEPS], whole and len(found) <= MOST_STEPS


def _lettered(steps: Sequence[Step]) -> list[Step]:
    """The steps with ids that begin with a letter: what stands for one of them may not be money.

    So `$1` means the step 1 only where that is needed.
    """
    digits = {step.id for step in steps if step.id[:1].isdigit()}

    def lettered(step: Step) -> Step:
        meant = digits.intersection(step.needs)
        question = _PLACE.sub(
            lambda place: f"$s{place[1]}" if place[1] in meant else place[0], step.question
        )
        name = f"s{step.id}" if step.id in digits else step.id
        needs = tuple(f"s{need}" if need in digits else need for need in step.needs)
        return Step(name, question, needs)

    return [lettered(step) for step in steps]


def _unlike(steps: Sequence[Step], notes: list[str]) -> list[Step]:
    """The steps with ids unlike each other; the first keeps what two have."""
    taken: set[str] = set()
    named = []
    for place, step in enumerate(steps):
        name = step.id
        if name in taken or not _ID.fullmatch(name):
            notes.append(f"Step {place + 1} had no id of its own.")
            name = next(n for k in range(len(steps) + 1) if (n := f"s{place + 1 + k}") not in taken)
        taken.add(name)
        named.append(replace(step, id=name))
    return named


def _known_needs(steps: Sequence[Step], notes: list[str]) -> list[Step]:
    """The steps with the needs that there are: those in their text, those said and in the plan."""
    ids = {step.id for step in steps}
    mended = []
    for step in steps:
        said = dict.fromkeys(need for need in step.needs if need in ids and need != step.id)
        if len(said) < len(set(step.needs)):
            notes.append(f"Step {step.id} needed what is no other step.")
        used = (name for name in _PLACE.findall(step.question) if name in ids and name != step.id)
        mended.append(replace(step, needs=tuple(said | dict.fromkeys(used))))
    return mended


def _in_order(steps: Sequence[Step], notes: list[str]) -> list[Step]:
    """The steps with each after those it needs; where they go in a circle, the first need is cut.

    The last as written stays the last: it is the one that answers the question.
    """
    *others, last = steps
    if any(last.id in step.needs for step in others):
        notes.append(f"Others needed the last step, {last.id}.")
        others = [
            replace(step, needs=tuple(n for n in step.needs if n != last.id)) for step in others
        ]
    ordered: dict[str, Step] = {}
    waiting = others
    while waiting:
        ready = [step for step in waiting if all(need in ordered for need in step.needs)]
        if not ready:
            first = waiting[0]
            notes.append(f"Step {first.id} needed itself, by way of others.")
            kept = tuple(need for need in first.needs if need in ordered)
            ready = [replace(first, needs=kept)]
        ordered.update((step.id, step) for step in ready)
        waiting = [step for step in waiting if step.id not in ordered]
    return [*ordered.values(), last]


def _needed(steps: Sequence[Step], notes: list[str]) -> list[Step]:
    """The steps without those that the last one has no use for."""
    useful = {steps[-1].id}
    for step in reversed(steps):
        if step.id in useful:
            useful.update(step.needs)
    if len(useful) < len(steps):
        notes.append(f"{len(steps) - len(useful)} steps were of no use to the last one.")
    return [step for step in steps if step.id in useful]
