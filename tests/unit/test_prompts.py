"""The planner's prompts: what is asked, where it is put, and what is read from replies."""

import pytest

from planner import prompts

ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How many pens?"},
]


@pytest.mark.parametrize(
    "messages",
    [
        prompts.plan_messages(ASKED),
        prompts.refine_messages(ASKED, ["1 + 1 = 3"]),
        prompts.judge_messages(ASKED, ["1 + 1 = 3", "1 + 1 = 2"]),
    ],
    ids=["plan", "refine", "judge"],
)
def test_prompts_extend_the_question(messages: list[prompts.Message]) -> None:
    """Every instruction follows the question; the turns before it stay as they were."""
    assert messages[:-1] == ASKED[:-1]
    assert messages[-1]["role"] == "user"
    assert messages[-1]["content"].startswith("How many pens?\n\n")


def test_prompts_leave_the_conversation_alone() -> None:
    """The messages handed in are not changed, nor shared with what comes back."""
    before = [dict(message) for message in ASKED]
    messages = prompts.plan_messages(ASKED)
    messages[0]["content"] = "changed"
    assert before == ASKED


def test_attempts_are_numbered_from_one() -> None:
    """Each attempt stands under its number, in the order given."""
    content = prompts.judge_messages(ASKED, ["first\n", "second"])[-1]["content"]
    assert "Attempt 1:\nfirst\n\nAttempt 2:\nsecond\n\n" in content


def test_an_empty_conversation_is_refused() -> None:
    """There is nothing to plan without a message."""
    with pytest.raises(ValueError, match="at least one message"):
        prompts.plan_messages([])


def test_no_attempts_are_refused() -> None:
    """There is nothing to refine or judge without an attempt."""
    with pytest.raises(ValueError, match="At least one attempt"):
        prompts.refine_messages(ASKED, [])


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("Best: 1", 0),
        ("best: 3", 2),
        ("Attempt 2 adds wrongly, so 1 it is. Best: 1", 0),
        ("Best: 2\nNo. Best: 3", 2),
        ("**Best:** Attempt 2", 1),
        ("2", 1),
        ("Attempt 3.", 2),
        ("Best: 4", None),
        ("Best: 0", None),
        ("1 or 2", None),
        ("", None),
        ("none of them", None),
    ],
)
def test_judgement_is_read(text: str, index: int | None) -> None:
    """A reply chooses one of three attempts, or none where it can't be told which."""
    assert prompts.parse_judgement(text, 3) == index
