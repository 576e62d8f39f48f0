"""Second tries: how often and how soon what was sent to a worker may be sent to another one.

Calls are tried again where a worker was lost, and sent a second time where one takes far longer
than others like it. Either makes more work just when there is too much of it already, so what all
requests of a process may try again is a part of what they send. What always holds:

- in the long run no more than `RETRY_SHARE` of all calls are tried again, and no more than the
  given share (by default `HEDGE_SHARE`) are sent a second time;
- what was lost at one moment is tried again at many;
- nothing is taken for late before it is known how long calls take.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

RETRY_SHARE = 0.2
"""Tries after a loss, of all calls. Losing one of four workers every ten seconds takes a third of
that."""

RETRY_MOST = 512
"""Tries that may be saved up: all that a large worker has in flight when it dies."""

HEDGE_SHARE = 0.05
"""Second tries of calls that are late, of all calls: as many as are slower than the 95th
percentile, which is what they are for."""

HEDGE_MOST = 16
"""Of these, what may be saved up: the stragglers of one search."""

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0

LATE = 3.0
"""So many times the 95th percentile of the time for its length, a call is late."""

LEAST_LATE_SECONDS = 1.0
"""No call is late sooner."""

_SEEN_MOST = 256
_SEEN_LEAST = 32
"""Calls that must have ended before any is taken for late."""

_FEWEST_TOKENS = 16
"""Shorter calls say more of what is around them than of the pace of a worker."""


class Allowance:
    """What may be tried again: a part of what is sent, saved up to a limit. It begins full."""

    def __init__(self, share: float, most: float) -> None:
        self._share = share
        self._most = most
        self._level = most

    def earn(self, sent: int) -> None:
        """So many calls were sent."""
        self._level = min(self._most, self._level + self._share * sent)

    def take(self) -> bool:
        """Take one, if there is one."""
        if self._level < 1:
            return False
        self._level -= 1
        return True


@dataclass(slots=True)
class Paces:
    """How long calls take for each token that they make."""

    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=_SEEN_MOST))
    _slow: float | None = None

    def saw(self, seconds: float, tokens: int) -> None:
        """Learn from a call that has ended."""
        if tokens >= _FEWEST_TOKENS:
            self._seen.append(seconds / tokens)
            self._slow = None

    def late(self, tokens: int) -> float | None:
        """Seconds after which a call of so many tokens is late; None while that isn't known."""
        if len(self._seen) < _SEEN_LEAST:
            return None
        if self._slow is None:
            self._slow = sorted(self._seen)[int(0.95 * (len(self._seen) - 1))]
        return max(LEAST_LATE_SECONDS, LATE * self._slow * tokens)


class SecondTries:
    """All of it for one process. With a `hedge_share` of 0 nothing is sent twice for being late."""

    def __init__(self, hedge_share: float = HEDGE_SHARE) -> None:
        self.retries = Allowance(RETRY_SHARE, RETRY_MOST)
        self.hedges = Allowance(hedge_share, HEDGE_MOST if hedge_share else 0)
        self.paces = Paces()
        self.hedging = hedge_share > 0

    def sent(self, calls: int) -> None:
        """So many calls were sent for the first time."""
        self.retries.earn(calls)
        self.hedges.earn(calls)


def backoff(losses: int) -> float:
    """Seconds to wait before the next try, after so many losses: more each time, and by chance."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (losses - 1))
    return random.uniform(0, longest)
