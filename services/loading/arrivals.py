"""When requests come, in an open loop: a Poisson process whose rate is higher in bursts.

The times are drawn before anything is asked and never move. A request that could only be sent late
still counts from when it should have been: that the service is slow can't hide how slow it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count

from services.loading.plan import Burst


def arrivals(
    rate: float, seconds: float, bursts: Sequence[Burst] = (), seed: int = 0
) -> Iterator[float]:
    """Seconds from the start, ascending, below `seconds`: `rate` a second on average.

    Within a burst it is `rate` times its factor, or times all their factors where several meet.
    Drawn by thinning (Lewis and Shedler 1979), which is exact for any rate.
    """
    drawn = random.Random(seed)
    highest = rate
    for burst in bursts:
        highest *= max(1.0, burst.factor)
    at = 0.0
    while highest > 0:
        at += drawn.expovariate(highest)
        if at >= seconds:
            return
        if drawn.random() * highest < rate_at(at, rate, seconds, bursts):
            yield at


def rate_at(at: float, rate: float, seconds: float, bursts: Sequence[Burst]) -> float:
    """Requests a second that are meant to come at this moment."""
    for burst in bursts:
        if any(begin <= at < end for begin, end in spans(burst, seconds)):
            rate *= burst.factor
    return rate


def spans(burst: Burst, seconds: float) -> Iterator[tuple[float, float]]:
    """From when to when there is such a burst: the end of each period, or once, in the middle."""
    if burst.every is None:
        begin = max(0.0, (seconds - burst.seconds) / 2)
        yield begin, min(seconds, begin + burst.seconds)
        return
    for number in count(1):
        end = number * burst.every
        if end - burst.seconds >= seconds:
            return
        yield end - burst.seconds, min(seconds, end)
