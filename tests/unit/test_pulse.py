"""A pulse asks whether Redis can be used until it can."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from services.budget.pulse import Pulse, RedisAway


def answering(*answers: Exception | None) -> Pulse:
    """One whose questions come to these, one after the other; to the last for ever."""
    left = list(answers)

    async def ask() -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is not None:
            raise answer

    return Pulse(ask, answer_seconds=2.0)


async def away(pulse: Pulse) -> str:
    """Why it is away, once it is."""
    async with asyncio.timeout(10):
        while pulse.away is None:
            await asyncio.sleep(0.001)
    return pulse.away


async def back(pulse: Pulse) -> None:
    """Return once it isn't away any more."""
    async with asyncio.timeout(10):
        while pulse.away is not None:
            await asyncio.sleep(0.001)


GONE, STRANGE = ConnectionRefusedError("gone"), ValueError("no reply that anybody knows")


@pytest.mark.parametrize(
    "answers",
    [
        (GONE, GONE, STRANGE, STRANGE, STRANGE, None),
        (STRANGE, STRANGE, STRANGE, GONE, None),
    ],
)
async def test_it_keeps_asking_whatever_the_question_comes_to(
    answers: Sequence[Exception | None],
) -> None:
    """An error that nobody has thought of is one more reason why Redis can't be used, logged once;
    when that has passed, Redis is back.
    """
    pulse = answering(*answers)
    with capture_logs() as logs:
        pulse.suspect()
        assert await away(pulse)
        with pytest.raises(RedisAway):
            pulse.check()
        await back(pulse)
    pulse.check()
    assert pulse.era == 1
    said = [line["event"] for line in logs]
    assert said.count("asking redis failed") == 1
    assert said[-1] == "redis is back"
    await pulse.aclose()
