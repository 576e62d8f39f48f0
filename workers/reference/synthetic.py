"""Synthetic queries: word problems with their exact answer, steps and, where compound, plan.

`queries` is a pure function of its arguments and knows no end. Splits never overlap: the
arithmetic of a query (its steps, in order) decides by its hash which split it belongs to, so
not even a retelling of a training problem in other words is in the test split, and a seed never
used before is a test never seen.

All values are whole numbers from 0 to LIMIT; divisions are exact. A solution is one step a
line, `left operator right = result`, and then `#### answer`.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, get_args

from workers.reference import stories

Split = Literal["train", "dev", "test"]
Kind = Literal["easy", "hard", "compound", "practice"]

LIMIT = 9999
ANSWER_MARK = "#### "
_STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_PART_OF_TEN: dict[int, Split] = {8: "dev", 9: "test"}


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One sub-question; `$id` in its text stands for the answer of an earlier step.

    `steps` solve it once those answers are put in; the last one's result is its answer.
    """

    id: str
    question: str
    needs: tuple[str, ...]
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A question with all that is known about it. `plan` is empty unless it is compound."""

    id: str
    split: Split
    kind: Kind
    question: str
    answer: str
    steps: tuple[str, ...]
    plan: tuple[PlanStep, ...] = ()

    @property
    def solution(self) -> str:
        """The steps and the answer as a model should write them."""
        return "\n".join((*self.steps, ANSWER_MARK + self.answer))


@dataclass(frozen=True, slots=True)
class Shape:
    """How difficult a query is; pairs are the least and the most, both included.

    `largest` bounds the numbers that are added and taken away, `times` and `each` those that
    are multiplied and divided by, `dividend` what is divided, `limit` every result.
    """

    events: tuple[int, int]
    largest: int
    times: int
    each: int
    distractors: tuple[int, int] = (0, 1)
    dividend: int = LIMIT
    limit: int = LIMIT


EASY = Shape(events=(2, 4), largest=99, times=9, each=12)
HARD = Shape(events=(7, 8), largest=249, times=4, each=12, dividend=99, limit=1499)
SECTION = Shape(events=(2, 2), largest=60, times=4, each=12, distractors=(0, 0))
SECTIONS = (3, 4)


def queries(split: Split, kind: Kind, count: int, seed: int) -> list[Query]:
    """The first `count` queries of this split and kind that belong to the seed.

    A longer list starts with the shorter one. Raises ValueError for unknown splits and kinds.
    """
    if split not in get_args(Split) or kind not in get_args(Kind):
        raise ValueError(
            f"Unknown split or kind: {split}/{kind}. Splits: {', '.join(get_args(Split))}; "
            f"kinds: {', '.join(get_args(Kind))}."
        )
    return [_query(split, kind, f"{split}-{kind}-{seed}-{index}") for index in range(count)]


def split_of(steps: Sequence[str]) -> Split:
    """The one split that may hold a query with these steps: 8 in 10 train, 1 dev, 1 test."""
    digest = sha256("\n".join(steps).encode()).digest()
    return _PART_OF_TEN.get(int.from_bytes(digest[:8], "big") % 10, "train")


def parts(query: Query) -> tuple[Query, ...]:
    """The sub-questions of a compound query as queries of their own, earlier answers put in."""
    answers: dict[str, str] = {}
    found = []
    for step in query.plan:
        question = fill(step.question, answers)
        answers[step.id] = step.steps[-1].rpartition(" ")[2]
        found.append(
            Query(
                f"{query.id}-{step.id}",
                query.split,
                query.kind,
                question,
                answers[step.id],
                step.steps,
            )
        )
    return tuple(found)


def fill(question: str, answers: Mapping[str, str]) -> str:
    """The question with each `$id` replaced by that step's answer.

    Raises KeyError for an id without an answer.
    """
    return re.sub(r"\$([a-z])\b", lambda match: answers[match[1]], question)


def answer_of(text: str) -> str | None:
    """What follows the last answer mark, or None where there is none."""
    _, mark, rest = text.rpartition(ANSWER_MARK)
    return rest.strip().partition("\n")[0].strip() if mark else None


def right(query: Query, text: str) -> bool:
    """Whether a written solution ends in the exact answer."""
    return answer_of(text) == query.answer


def first_wrong_step(query: Query, steps: Sequence[str]) -> int | None:
    """Index of the first step that leaves the way to the answer, or None if none does.

    A step is right if its arithmetic is, and if it is a step of the solution that wasn't taken
    yet; the order is free as long as what a step uses is there, and so are the two sides of a
    sum or a product. The answer is right if it is the query's; nothing may follow it.
    """
    left = Counter(_normal(step) for step in query.steps)
    for index, step in enumerate(steps):
        if step.startswith(ANSWER_MARK):
            if step != ANSWER_MARK + query.answer or index != len(steps) - 1:
                return index
        elif left[_normal(step)] > 0:
            left[_normal(step)] -= 1
        else:
            return index
    return None


def steps_left(query: Query, taken: Sequence[str]) -> list[str]:
    """The steps of the solution that are not among those taken, either way they are written."""
    seen = Counter(_normal(step) for step in taken)
    left = []
    for step in query.steps:
        if seen[_normal(step)] > 0:
            seen[_normal(step)] -= 1
        else:
            left.append(step)
    return left


def calculate(left: int, operator: str, right: int) -> int:
    """One of the four operations on whole numbers; a division that isn't exact rounds down.

    Raises ValueError for another operator and ZeroDivisionError as usual.
    """
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left // right
        case _:
            raise ValueError(f"Unknown operator: {operator}")


def numbers(text: str) -> list[int]:
    """The whole numbers written in a text, in order."""
    return [int(number) for number in re.findall(r"\d+", text)]


def parse_step(step: str) -> tuple[int, str, int, int] | None:
    """Left side, operator, right side and result of a step, or None if it isn't one."""
    found = _STEP.fullmatch(step)
    return (int(found[1]), found[2], int(found[3]), int(found[4])) if found else None


def _normal(step: str) -> str:
    """The step with the smaller side of a sum or product first, so that equal ones are equal."""
    parsed = parse_step(step)
    if parsed is None or parsed[1] in "-/":
        return step
    low, high = sorted((parsed[0], parsed[2]))
    return f"{low} {parsed[1]} {high} = {parsed[3]}"


def _query(split: Split, kind: Kind, name: str) -> Query:
    """Draws until one falls into the split; how long that takes depends on nothing else."""
    rng = random.Random(name)
    while True:
        plan: tuple[PlanStep, ...] = ()
        if kind == "compound":
            question, plan = _compound(rng, rng.randint(*SECTIONS))
            steps = tuple(step for part in plan for step in part.steps)
        else:
            question, steps = _Story(rng, _shape(rng, kind)).tell()
        if split_of(steps) == split:
            answer = steps[-1].rpartition(" ")[2]
            return Query(name, split, kind, question, answer, steps, plan)


def _shape(rng: random.Random, kind: Kind) -> Shape:
    match kind:
        case "easy":
            return EASY
        case "hard":
            return HARD
        case _:
            return Shape(
                events=(1, rng.choice((2, 5, 8, 11))),
                largest=rng.choice((30, 99, 300, 999)),
                times=rng.choice((4, 9, 12)),
                each=rng.choice((12, 30, 99)),
                distractors=(0, rng.choice((0, 1, 2))),
            )


class _Story:
    """One thread of events about one person, told sentence by sentence.

    `value` is what the person has after the sentences so far; `steps` lead there.
    """

    def __init__(
        self,
        rng: random.Random,
        shape: Shape,
        setting: stories.Setting | None = None,
        thing: str | None = None,
        people: list[str] | None = None,
    ) -> None:
        self.rng = rng
        self.shape = shape
        self.setting = setting or rng.choice(stories.SETTINGS)
        self.thing = thing or rng.choice(self.setting.things)
        self.person, *self.others = people or rng.sample(stories.PEOPLE, 4)
        self.value = self.first = rng.randint(2, shape.largest)
        self.steps: list[str] = []
        self.sentences: list[str] = []
        self.question = ""
        self._each: int | None = None

    def tell(self) -> tuple[str, tuple[str, ...]]:
        """The question in full, and its steps."""
        self.say(self.setting.start, n=self.value)
        self.happen(self.rng.randint(*self.shape.events))
        self._ask()
        for _ in range(self.rng.randint(*self.shape.distractors)):
            place = self.rng.randint(1, len(self.sentences))
            self.say(stories.DISTRACTORS, place, n=self.rng.randint(2, self.shape.largest))
        return " ".join((*self.sentences, self.question)), tuple(self.steps)

    def happen(self, count: int, simple: bool = False) -> None:
        """`count` events, each a sentence or two and a step or two."""
        events = [self._gain, self._lose, self._gain, self._lose, self._gain_packs]
        events += [self._gain_packs, self._lose_packs, self._multiply]
        if not simple:
            events += [self._divide, self._recall, self._known_packs, self._handover, self._other]
            events += [self._other]
        while count:
            count -= self.rng.choice(events)()

    def say(self, wordings: Sequence[str], place: int | None = None, **words: object) -> None:
        """One sentence, in any of its wordings, at the end or at the place given."""
        self.sentences.insert(
            len(self.sentences) if place is None else place, self.word(wordings, **words)
        )

    def word(self, wordings: Sequence[str], **words: object) -> str:
        """One of the wordings with its braces filled in."""
        known = {"p": self.person, "q": self.rng.choice(self.others), "i": self.thing}
        known |= {"pack": self.setting.pack, "packs": self.setting.packs}
        return self.rng.choice(wordings).format(**{**known, **words})

    def fits(self, operator: str, right: int) -> bool:
        """Whether the value may go through this operation."""
        if operator == "/" and self.value > self.shape.dividend:
            return False
        if operator == "/" and self.value % right:
            return False
        return 0 < calculate(self.value, operator, right) <= self.shape.limit

    def step(self, operator: str, right: int) -> None:
        """Takes the value through one operation and writes the step down."""
        self.value = self._write(self.value, operator, right)

    def _write(self, left: int, operator: str, right: int) -> int:
        result = calculate(left, operator, right)
        self.steps.append(f"{left} {operator} {right} = {result}")
        return result

    def _ask(self) -> None:
        price = self.rng.randint(2, self.shape.times)
        if self.rng.random() < 0.15 and self.fits("*", price):
            self.question = self.word(stories.PRICE, n=price)
            self.step("*", price)
        else:
            self.question = self.word(self.setting.ask)

    def _simple(self, operator: str, wordings: Sequence[str], right: int) -> bool:
        """An event of one step; False, and nothing told, where the value doesn't allow it."""
        if not self.fits(operator, right):
            return False
        self.say(wordings, n=right)
        self.step(operator, right)
        return True

    def _gain(self) -> bool:
        return self._simple("+", self.setting.gain, self.rng.randint(2, self.shape.largest))

    def _lose(self) -> bool:
        most = min(self.value - 1, self.shape.largest)
        return most > 1 and self._simple("-", self.setting.lose, self.rng.randint(2, most))

    def _multiply(self) -> bool:
        return self._simple("*", stories.MULTIPLY, self.rng.randint(2, self.shape.times))

    def _divide(self) -> bool:
        return self._simple("/", stories.DIVIDE, self.rng.randint(2, self.shape.times))

    def _recall(self) -> bool:
        if not self.steps or self.rng.random() < 0.5:
            return bool(self.steps) and self._simple("+", stories.RECALL_GAIN, self.first)
        return self._simple("-", stories.RECALL_LOSE, self.first)

    def _packs(self, operator: str, wordings: Sequence[str], each: int | None = None) -> bool:
        """So many packs of so many: two steps."""
        packs = self.rng.randint(2, self.shape.times)
        size = each or self.rng.randint(2, self.shape.each)
        if not self.fits(operator, packs * size):
            return False
        self.say(wordings, a=packs, b=size)
        self.step(operator, self._write(packs, "*", size))
        return True

    def _gain_packs(self) -> bool:
        return self._packs("+", self.setting.gain_packs)

    def _lose_packs(self) -> bool:
        return self._packs("-", self.setting.lose_packs)

    def _known_packs(self) -> bool:
        """Packs whose size was told in an earlier sentence."""
        each = self._each or self.rng.randint(2, self.shape.each)
        gain = self.rng.random() < 0.6
        wordings = stories.GAIN_KNOWN_PACKS if gain else stories.LOSE_KNOWN_PACKS
        if not self._packs("+" if gain else "-", wordings, each):
            return False
        if self._each is None:
            self._each = each
            place = self.rng.randint(0, len(self.sentences) - 1)
            self.say(stories.PACK_FACT, place, b=each)
        return True

    def _handover(self) -> bool:
        """Somebody else's things, less some, come on top: two steps."""
        owned = self.rng.randint(4, max(5, self.shape.largest))
        kept = self.rng.randint(2, owned - 2)
        if not self.fits("+", owned - kept):
            return False
        self.say(stories.OTHER_HANDS_OVER, a=owned, b=kept)
        self.step("+", self._write(owned, "-", kept))
        return True

    def _other(self) -> bool:
        """From here on the story is about somebody else, who has more, fewer or times as many."""
        operator, wordings, most = self.rng.choice(
            (
                ("+", stories.OTHER_MORE, self.shape.largest),
                ("-", stories.OTHER_FEWER, min(self.shape.largest, max(2, self.value - 1))),
                ("*", stories.OTHER_TIMES, self.shape.times),
            )
        )
        place = self.rng.randrange(len(self.others))
        other = self.others[place]
        amount = self.rng.randint(2, most)
        if not self.fits(operator, amount):
            return False
        self.say(wordings, q=other, n=amount)
        self.step(operator, amount)
        self.others[place], self.person = self.person, other
        return True


def _compound(rng: random.Random, count: int) -> tuple[str, tuple[PlanStep, ...]]:
    """Stories of `count` people, some of them starting from another's end, and a last question."""
    setting = rng.choice(stories.SETTINGS)
    thing = rng.choice(setting.things)
    people = rng.sample(stories.PEOPLE, count + 2)
    told: list[str] = []
    plan: list[PlanStep] = []
    values: list[int] = []
    for place in range(count):
        others = people[count:]
        story = _Story(rng, SECTION, setting, thing, [people[place], *others])
        given = ""
        needs: tuple[str, ...] = ()
        if place and rng.random() < 0.5:
            given, needs = _start_from(rng, story, rng.randrange(place), people, values)
        else:
            story.say(setting.start, n=story.value)
        story.happen(rng.randint(*SECTION.events), simple=True)
        told.append(" ".join(story.sentences))
        ask = setting.ask[-1].format(p=story.person, i=thing)
        plan.append(
            PlanStep("abcdefgh"[place], f"{given}{told[-1]} {ask}", needs, tuple(story.steps))
        )
        values.append(story.value)
    question, last = _join(rng, thing, people[:count], values)
    return " ".join((*told, question)), (*plan, last)


def _start_from(
    rng: random.Random, story: _Story, place: int, people: list[str], values: list[int]
) -> tuple[str, tuple[str, ...]]:
    """Starts the story from what an earlier person has; what a sub-question must be given."""
    story.value = values[place]
    times = rng.randint(2, 4)
    if rng.random() < 0.5 and story.fits("*", times):
        story.say(stories.TIMES_AS, q=people[place], n=times)
        story.step("*", times)
    else:
        story.say(stories.SAME_AS, q=people[place])
    name = "abcdefgh"[place]
    return f"{people[place]} has ${name} {story.thing}. ", (name,)


def _join(
    rng: random.Random, thing: str, people: list[str], values: list[int]
) -> tuple[str, PlanStep]:
    """The last question: everybody's things together, sometimes sold, or less a number."""
    listed = f"{', '.join(people[:-1])} and {people[-1]}"
    story = _Story(rng, SECTION, None, thing, people)
    story.value = values[0]
    for value in values[1:]:
        story.step("+", value)
    price = rng.randint(2, 5)
    minus = rng.randint(2, 60)
    draw = rng.random()
    if draw < 0.25 and story.fits("*", price):
        question = story.word(stories.TOGETHER_PRICE, people=listed, n=price)
        story.step("*", price)
    elif draw < 0.5 and story.fits("-", minus):
        question = story.word(stories.SPLIT_EVENLY, people=listed, n=minus)
        story.step("-", minus)
    else:
        question = story.word(stories.TOGETHER, people=listed)
    ids = "abcdefgh"[: len(people)]
    given = " ".join(f"{p} has ${name} {thing}." for p, name in zip(people, ids, strict=True))
    return question, PlanStep(
        "abcdefgh"[len(people)], f"{given} {question}", tuple(ids), tuple(story.steps)
    )
