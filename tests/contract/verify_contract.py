"""What everything that compares answers keeps to, whether real processes are behind it or not.

`VerifyContract` is run over the fake and over the verifier. A subclass gives the fixture
`comparing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from itertools import count
from typing import Protocol

from workers.messages import Verified, Verify

_ids = count()


class Comparing(Protocol):
    """The part of a pool that compares answers."""

    def verify(self, batch: tuple[Verify, ...]) -> AsyncIterator[Verified]: ...

    async def cancel(self, ids: Collection[str]) -> None: ...


def question(*answers: str, apart: int = 0) -> Verify:
    """A call with an id that no other call has."""
    return Verify(f"verify-{next(_ids)}", answers, apart)


async def verified(results: AsyncIterator[Verified]) -> dict[str, Verified]:
    """The result of each call. Fails if one comes twice."""
    ended: dict[str, Verified] = {}
    async for result in results:
        assert result.id not in ended
        ended[result.id] = result
    return ended


class VerifyContract:
    """The port's promises, one test each."""

    async def test_each_call_ends_once(self, comparing: Comparing) -> None:
        """A batch ends call by call, each once, whatever is in it."""
        batch = (question("a+b", "b+a"), question("a+b", "a+c"), question("1", "2", "3"))
        ended = await verified(comparing.verify(batch))
        assert ended.keys() == {call.id for call in batch}
        assert {one.finish for one in ended.values()} == {"done"}
        assert ended[batch[0].id].same == (("a+b", "b+a"),)
        assert ended[batch[1].id].same == ended[batch[2].id].same == ()

    async def test_an_empty_batch_ends_at_once(self, comparing: Comparing) -> None:
        """Nothing comes of nothing."""
        assert await verified(comparing.verify(())) == {}

    async def test_a_cancelled_call_ends(self, comparing: Comparing) -> None:
        """A call can be cancelled before it is read, and yields its result all the same."""
        call = question("a+b", "b+a")
        results = comparing.verify((call,))
        await comparing.cancel([call.id, "nobody"])
        assert (await verified(results))[call.id].finish in ("cancelled", "done")
        await comparing.cancel([call.id])

    async def test_closing_the_stream_ends_the_calls(self, comparing: Comparing) -> None:
        """Whoever closes the stream can ask again."""
        results = comparing.verify((question("a+b", "b+a"), question("a*b", "b*a")))
        await anext(results)
        await results.aclose()  # type: ignore[attr-defined]
        again = question("a+b", "b+a")
        assert (await verified(comparing.verify((again,))))[again.id].finish == "done"
