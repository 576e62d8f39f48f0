"""Choices, JSON and code have one form each, however they are written."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.answers import answer_of, canonical


@pytest.mark.parametrize(
    "text",
    [
        r"so it is \boxed{B}",
        r"\boxed{\text{(B)}}",
        r"\boxed{\textbf{(B)}\ 42}",
        "answer: B",
        "The answer is (B).",
        "The answer is **B**.",
        "Answer: (B) 42 apples",
        "Answer: B) 42 apples",
        "The answer is option B.",
        "All others fail.\nB",
        "All others fail.\n(B)",
        "All others fail.\n**B.**",
    ],
)
def test_a_choice_is_its_letter(text: str) -> None:
    """However a choice is marked, labelled or dressed up, it votes for its letter."""
    assert answer_of(text) == "b"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: B. Russell", "b. russell"),
        ("Answer: (x)", "(x)"),
        ("Answer: (B", "(b"),
        ("I have a b", None),
    ],
)
def test_what_only_looks_like_a_choice_is_none(text: str, answer: str | None) -> None:
    """A name, a variable or a word isn't taken for a choice."""
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        '{"b": [1, 2.50], "a": "X y"}',
        '{"a":"X y","b":[1.0,25e-1]}',
        'Here it is:\n```json\n{"a": "X y",\n "b": [1, 2.5]}\n```\n',
        r'\boxed{{"a": "X y", "b": [1, 2.5]}}',
    ],
)
def test_json_is_its_value(text: str) -> None:
    """Order of keys, spaces and the way to write a number make no difference."""
    assert answer_of(text) == '{"a":"X y","b":[1,2.5]}'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1}', '{"a": 2}'),
        ('{"a": "x"}', '{"a": "X"}'),
        ('{"a": 1}', '{"a": "1"}'),
        ("[1, 2]", "[2, 1]"),
        ('{"a": null}', "{}"),
        ('{"a": true}', '{"a": 1}'),
    ],
)
def test_other_values_stay_apart(one: str, other: str) -> None:
    """JSON that differs in a value is another answer."""
    assert canonical(one) != canonical(other)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), _JSON))
def test_json_reads_back(value: dict[str, object]) -> None:
    """The one form of a JSON object has its value and is its own one form."""
    form = canonical(json.dumps(value, indent=2))
    assert json.loads(form) == value
    assert canonical(form) == form


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[" * 5_000 + "]" * 5_000, '{"a":' * 50_000, "[1e999999999]", "```\n" * 9],
)
def test_hostile_data_is_read_quickly(text: str) -> None:
    """No nesting and no number takes long, or ends in an exception."""
    began = time.perf_counter()
    answer_of(text)
    answer_of(text, code=True)
    assert time.perf_counter() - began < 2.0


def test_code_is_the_last_block_as_it_stands() -> None:
    """Code keeps its case and its indents, and loses the spaces that nobody sees."""
    text = "First:\n```\nx\n```\nBetter:\n```python\ndef F():  \n    return 1\n```\nDone: 7."
    assert answer_of(text, code=True) == "def F():\n    return 1"
    assert answer_of("No code: 7.", code=True) is None


def test_code_that_was_cut_is_no_answer() -> None:
    """A block that the end of a cut text leaves open may be half a program."""
    text = "```python\nprint(1)"
    assert answer_of(text, code=True, ended=False) is None
    assert answer_of(text, code=True, ended=True) == "print(1)"


def test_a_fraction_keeps_its_parts_together() -> None:
    """A sum over something isn't a sum of which the last part is over it."""
    assert canonical(r"\frac{x+1}{2}") != canonical("x+1/2")
    assert canonical(r"\frac{x+1}{2}") == canonical("(x+1)/2")
