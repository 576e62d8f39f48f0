"""What a process reward model has said of steps, for when it doesn't read them again.

An engine that takes the beginning of a candidate from its prefix cache computes nothing there, and
so no scores: whoever asks it has to remember them. What always holds: no score is ever given for
another text than the one it was computed for, and what is remembered is bounded.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import pairwise

_MOST = 131_072
"""Steps that are remembered, a few hundred bytes each: more than a KV cache holds."""


class StepScores:
    """The scores of steps that an engine's prefix cache may hold, by `prefix_names`.

    Bounded: the steps that were used longest ago are forgotten first, as they are in the cache.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._scores: OrderedDict[bytes, float | None] = OrderedDict()

    def missed(self, names: Iterable[bytes]) -> bool:
        """Whether any of these was, or may have been, computed and not heard."""
        return any(self._scores.get(name, 0.0) is None for name in names)

    def miss(self, names: Iterable[bytes]) -> None:
        """Of these, those without a score may have been computed without being heard."""
        for name in names:
            self._scores.setdefault(name, None)
        self._forget()

    def complete(self, names: Sequence[bytes], last: Sequence[float]) -> tuple[float, ...] | None:
        """The scores of all these, of which the last have just been computed.

        Where one isn't known, it is None, and those that aren't known count as missed.
        """
        known = names[: len(names) - len(last)]
        scores = [*(self._scores.get(name) for name in known), *last]
        for name, score in zip(names, scores, strict=True):
            self._scores[name] = score
            self._scores.move_to_end(name)
        self._forget()
        whole = tuple(score for score in scores if score is not None)
        return whole if len(whole) == len(scores) else None

    def _forget(self) -> None:
        while len(self._scores) > self._most:
            self._scores.popitem(last=False)


def prefix_names(token_ids: Sequence[int], ends: Sequence[int], salt: str = "") -> list[bytes]:
    """Names for the beginnings of `token_ids` up to each of these places, that one included.

    `ends` ascend. Only the same beginnings, of whichever candidates, have the same name, and only
    under the same `salt`, as in the engine's cache.
    """
    digest = blake2b(digest_size=16, key=blake2b(salt.encode(), digest_size=32).digest())
    names = []
    for start, end in pairwise((0, *(end + 1 for end in ends))):
        digest.update(array("q", token_ids[start:end]).tobytes())
        names.append(digest.digest())
    return names
