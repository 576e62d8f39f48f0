"""Breakers: workers that lose what they are given are left alone for a while, then tried again.

A pure state machine: it owns no tasks and no clock. A breaker is closed while its worker does what
it is given. It opens when the worker has lost `LOSSES` calls with nothing done in between, or was
found to hang. After its pause it is half open: one call is sent to it as a probe, and what comes of
that closes it, or opens it for twice as long.

What always holds: a worker whose breaker isn't closed is only given probes, one at a time, and what
no other could take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

LOSSES = 2
"""Calls lost in a row that open a breaker: one alone may be the call's own doing."""

FIRST_PAUSE_SECONDS = 1.0
"""How long a breaker stays open the first time. A worker that refused as it was full has room again
by then; one that hangs has cost no more than one probe."""

LONGEST_PAUSE_SECONDS = 30.0
"""How long it stays open at most: a worker that is well again is found out within this time."""

PROBE_SECONDS = 60.0
"""A probe of which nothing was heard for so long counts no more: whoever sent it is gone."""

FORGET_SECONDS = 300.0
"""So long after its pause a worker to which nothing was sent since is taken for gone."""

_MOST = 256
"""Workers that are remembered. Those that died come back under other names."""

State: TypeAlias = Literal["closed", "open", "half-open"]


@dataclass(slots=True)
class Breaker:
    """The state of one worker. All times are seconds on one clock that never goes back."""

    losses: int = 0
    """Calls lost since the last that was done."""
    pause: float = 0.0
    """How long it opened the last time; 0 while it is closed."""
    until: float = 0.0
    """When its pause is over."""
    probed: float | None = None
    """When a probe was let through of which nothing was heard yet."""

    def state(self, now: float) -> State:
        """What it is at this moment."""
        if not self.pause:
            return "closed"
        return "open" if now < self.until else "half-open"

    def allows(self, now: float) -> bool:
        """Whether something may be sent to the worker: one probe only, while half open."""
        match self.state(now):
            case "closed":
                return True
            case "open":
                return False
            case "half-open":
                return self.probed is None or now - self.probed > PROBE_SECONDS

    def sent(self, now: float) -> None:
        """A probe is on its way to the worker."""
        self.probed = now

    def withdrawn(self, sent: float) -> None:
        """The probe that was sent then has ended without a word of the worker: another may go."""
        if self.probed == sent:
            self.probed = None

    def lost(self, now: float, *, hung: bool = False) -> None:
        """The worker lost a call, or was found to hang. What was sent before it opened may end
        long after that: it makes no difference then.
        """
        state = self.state(now)
        if state == "open":
            return
        self.losses += 1
        if state == "closed" and self.losses < LOSSES and not hung:
            return
        longer = 2 * self.pause if self.pause else FIRST_PAUSE_SECONDS
        self.pause = min(longer, LONGEST_PAUSE_SECONDS)
        self.until = now + self.pause
        self.probed = None

    def forgotten(self, now: float) -> bool:
        """Whether it opened so long ago that the worker is taken for gone."""
        return bool(self.pause) and now > self.until + FORGET_SECONDS

    def well(self) -> None:
        """The worker did what it was given."""
        self.losses, self.pause, self.until, self.probed = 0, 0.0, 0.0, None


class Breakers:
    """Those of all workers of a kind, by name. One that nobody has heard of is closed."""

    def __init__(self, most: int = _MOST) -> None:
        self._by_name: dict[str, Breaker] = {}
        self._most = most

    def of(self, name: str) -> Breaker:
        """The breaker of this worker."""
        breaker = self._by_name.pop(name, None) or Breaker()
        self._by_name[name] = breaker
        if len(self._by_name) > self._most:
            del self._by_name[next(iter(self._by_name))]
        return breaker

    def well(self, name: str) -> None:
        """A worker did what it was given, or is there no more."""
        self._by_name.pop(name, None)

    def shut(self, now: float) -> tuple[str, ...]:
        """The workers to which nothing but a probe should be sent now."""
        for name in [it for it, one in self._by_name.items() if one.forgotten(now)]:
            del self._by_name[name]
        return tuple(self.states(now))

    def probe(self, now: float) -> str:
        """A worker to which a probe is to be sent now, as that is what follows; "" for none."""
        for name, breaker in self._by_name.items():
            if breaker.state(now) == "half-open" and breaker.allows(now):
                breaker.sent(now)
                return name
        return ""

    def withdrawn(self, name: str, sent: float) -> None:
        """See `Breaker.withdrawn`."""
        if breaker := self._by_name.get(name):
            breaker.withdrawn(sent)

    def states(self, now: float) -> dict[str, State]:
        """What each is that isn't simply closed."""
        states = {name: it.state(now) for name, it in self._by_name.items()}
        return {name: state for name, state in states.items() if state != "closed"}
