"""The prefix cache of an engine: which beginnings of prompts it has read before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence


class PrefixCache:
    """Full blocks of tokens, each known with all that stands before it; the oldest go first."""

    def __init__(self, block_size: int, tokens: int) -> None:
        self._size = block_size
        self._most = max(1, tokens // block_size)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def read(self, prompt: Sequence[int]) -> int:
        """How many tokens of a prompt are known; from now on, all of its full blocks are.

        The last token is always read, as what follows it has to be computed.
        """
        known, missed = 0, False
        for block in self._names(prompt):
            if not missed and block in self._blocks and known + self._size < len(prompt):
                known += self._size
            else:
                missed = True
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
        return known

    def _names(self, prompt: Sequence[int]) -> Iterator[int]:
        name = 0
        for start in range(0, len(prompt) - self._size + 1, self._size):
            name = hash((name, *prompt[start : start + self._size]))
            yield name
