"""The synthetic queries: exact, endless, repeatable, and never in two splits."""

import random

import pytest

from workers.reference import synthetic
from workers.reference.slips import wrong_attempt
from workers.reference.synthetic import Kind, Query, Split

KINDS: tuple[Kind, ...] = ("easy", "hard", "compound", "practice")


@pytest.fixture(params=KINDS)
def drawn(request: pytest.FixtureRequest) -> list[Query]:
    """Sixty test queries of each kind."""
    return synthetic.queries("test", request.param, 60, 7)


def test_queries_are_repeatable(drawn: list[Query]) -> None:
    """The same arguments give the same queries, and fewer of them are the first of them."""
    assert synthetic.queries("test", drawn[0].kind, 20, 7) == drawn[:20]


def test_seeds_differ(drawn: list[Query]) -> None:
    """Another seed gives other questions."""
    others = synthetic.queries("test", drawn[0].kind, 60, 8)
    asked = {query.question for query in drawn}
    assert sum(query.question in asked for query in others) < 6


def test_steps_are_exact(drawn: list[Query]) -> None:
    """Every step's arithmetic holds, divisions are exact, and the last result is the answer."""
    for query in drawn:
        for step in query.steps:
            parsed = synthetic.parse_step(step)
            assert parsed is not None
            left, operator, right, result = parsed
            assert synthetic.calculate(left, operator, right) == result
            assert operator != "/" or left % right == 0
            assert 0 <= result <= synthetic.LIMIT
        assert query.steps[-1].endswith(f"= {query.answer}")


def test_numbers_come_from_somewhere(drawn: list[Query]) -> None:
    """Each side of a step is told in the question or is the result of an earlier step."""
    for query in drawn:
        known = set(synthetic.numbers(query.question))
        for step in query.steps:
            parsed = synthetic.parse_step(step)
            assert parsed is not None
            assert {parsed[0], parsed[2]} <= known
            known.add(parsed[3])


def test_own_solution_is_right(drawn: list[Query]) -> None:
    """The solution of a query passes its own checks."""
    for query in drawn:
        assert synthetic.right(query, query.solution)
        assert synthetic.first_wrong_step(query, query.solution.split("\n")) is None


def test_wrong_attempts_are_wrong(drawn: list[Query]) -> None:
    """A wrong attempt ends in a wrong answer, and the step that went wrong is found."""
    rng = random.Random(1)
    for query in drawn:
        attempt = wrong_attempt(query, rng)
        assert not synthetic.right(query, "\n".join(attempt))
        assert synthetic.first_wrong_step(query, attempt) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_disjoint(kind: Kind) -> None:
    """No arithmetic is in two splits, whatever the seeds."""
    splits: tuple[Split, ...] = ("train", "dev", "test")
    seen = [{q.steps for q in synthetic.queries(split, kind, 200, 3)} for split in splits]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    for split, steps in zip(splits, seen, strict=True):
        assert all(synthetic.split_of(each) == split for each in steps)


def test_plans_are_real_graphs() -> None:
    """Needs name earlier steps only and stand in the text; most plans hold steps without any."""
    drawn = synthetic.queries("test", "compound", 100, 1)
    for query in drawn:
        known: set[str] = set()
        for step in query.plan:
            assert set(step.needs) <= known
            assert all(f"${need} " in step.question for need in step.needs)
            known.add(step.id)
        assert query.plan[-1].needs
    independent = [sum(not step.needs for step in query.plan) for query in drawn]
    dependent = [sum(bool(step.needs) for step in query.plan[:-1]) for query in drawn]
    assert sum(count > 1 for count in independent) > 50
    assert sum(count > 0 for count in dependent) > 50


def test_parts_solve_the_whole() -> None:
    """The sub-questions, answered in order, lead to the answer, with the steps of the whole."""
    for query in synthetic.queries("test", "compound", 60, 2):
        parts = synthetic.parts(query)
        assert parts[-1].answer == query.answer
        assert tuple(step for part in parts for step in part.steps) == query.steps
        assert not any("$" in part.question for part in parts)


QUERY = Query("x", "test", "easy", "", "26", ("3 * 4 = 12", "20 - 6 = 14", "12 + 14 = 26"))


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        (["3 * 4 = 12", "20 - 6 = 14", "12 + 14 = 26", "#### 26"], None),
        (["20 - 6 = 14", "4 * 3 = 12", "14 + 12 = 26", "#### 26"], None),
        (["3 * 4 = 12"], None),
        ([], None),
        (["3 * 4 = 13"], 0),
        (["3 * 4 = 12", "3 * 4 = 12"], 1),
        (["3 * 4 = 12", "6 - 20 = 14"], 1),
        (["3 * 4 = 12", "12 + 20 = 32", "#### 32"], 1),
        (["3 * 4 = 12", "#### 12"], 1),
        (["3 * 4 = 12", "20 - 6 = 14", "12 + 14 = 26", "#### 26", "more"], 3),
    ],
)
def test_first_wrong_step(steps: list[str], wrong: int | None) -> None:
    """Order and sides are free where arithmetic leaves them free, and nothing else is."""
    assert synthetic.first_wrong_step(QUERY, steps) == wrong


@pytest.mark.parametrize(
    ("text", "answer"),
    [("1 + 1 = 2\n#### 2", "2"), ("#### 3\nWait\n#### 4\n", "4"), ("no answer", None)],
)
def test_answers_are_read(text: str, answer: str | None) -> None:
    """The last answer mark counts."""
    assert synthetic.answer_of(text) == answer


def test_unknown_kinds_are_refused() -> None:
    """The error names what there is."""
    with pytest.raises(ValueError, match="Splits: train, dev, test"):
        synthetic.queries("test", "trivial", 1, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("left", "operator", "right", "result"),
    [(7, "+", 5, 12), (7, "-", 5, 2), (7, "*", 5, 35), (35, "/", 7, 5)],
)
def test_calculate(left: int, operator: str, right: int, result: int) -> None:
    """The four operations."""
    assert synthetic.calculate(left, operator, right) == result


def test_other_operators_are_refused() -> None:
    """There are four operations."""
    with pytest.raises(ValueError, match="Unknown operator"):
        synthetic.calculate(1, "%", 1)
