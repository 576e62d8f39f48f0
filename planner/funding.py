"""How a budget is shared out over candidates that are likely to end long before they must.

Holding every candidate's worst case would leave workers idle. So a candidate is funded in
instalments: the worst case where all of them fit, else about what a candidate is likely to take;
one that needs more gets more once others have given back what they didn't need. Pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from planner.domain import Budget, Cost, Prices

_UNLIMITED = 1 << 40
_STALL_SECONDS = 1.0
UNKNOWN = 0.25
"""The part of what is left to begin with, where only others' lengths are known."""


@dataclass(slots=True)
class Lengths:
    """How many completion tokens something is likely to take: a running mean.

    Until it has seen any it expects a quarter of `max_tokens`; old ones fade, so that it follows
    what is being asked. `spread` is how far they lie from the mean, on average: where easy and hard
    questions come in turn, the mean says little of the next one. `seen` counts its own: a mean to
    begin with counts as one.
    """

    mean: float | None = None
    fade: float = 0.05
    spread: float = 0.0
    seen: int = 0

    def saw(self, tokens: int) -> None:
        """Learn from one that ended by itself."""
        self.seen += 1
        if self.mean is None:
            self.mean = tokens
            return
        weight = max(self.fade, 1 / (self.seen + 1))
        self.spread += weight * (abs(tokens - self.mean) - self.spread)
        self.mean += weight * (tokens - self.mean)

    def outgrew(self, tokens: int) -> None:
        """Learn from one that was cut short: it would have been longer still.

        Without these, where budgets are tight only the short ones are ever seen to end, so more of
        them are begun side by side, so only the shorter ones end.
        """
        if self.mean is not None and tokens > self.mean:
            self.saw(tokens)

    def missed(self, tokens: int) -> None:
        """Learn from one that was cut short in a search of which nothing came to an end: whoever
        asks the like next had better begin with fewer that may be twice as long.
        """
        if self.mean is not None:
            self.mean = max(self.mean, 2 * tokens)

    def ample(self, max_tokens: int) -> int:
        """What nearly all of them take: half as much again as is likely, or twice the spread."""
        likely = self.likely(max_tokens)
        return min(max_tokens, likely + max(likely // 2, round(2 * self.spread)))

    def long(self, max_tokens: int) -> int:
        """What a long one takes, where easy and hard questions come in turn: twice the spread.

        Where none was seen that is all it may take: who has to choose how many to begin, before any
        has come to an end, had better choose few.
        """
        if self.mean is None:
            return max_tokens
        return min(max_tokens, self.likely(max_tokens) + round(2 * self.spread))

    def likely(self, max_tokens: int) -> int:
        """The likely length of one that may take `max_tokens`; at least 1."""
        mean = max_tokens / 4 if self.mean is None else self.mean
        return max(1, min(max_tokens, round(mean)))


@dataclass(slots=True)
class Pace:
    """How fast one call is where little else runs: the least seconds a token, of late."""

    least: float | None = None

    def saw(self, seconds: float, tokens: int) -> None:
        """Learn from a call. Few tokens say more of what is around a call than of its pace."""
        if tokens < 16:
            return
        now = seconds / tokens
        self.least = now if self.least is None else min(now, self.least * 1.02)

    def seconds(self, tokens: int) -> float | None:
        """The time that one call is likely to need for so many, with half as much to spare."""
        return None if self.least is None else 0.1 + 1.5 * tokens * self.least

    def last_pass(self, tokens: int, whole: float) -> float:
        """The seconds to keep of `whole` for one call of so many tokens to end in time.

        A quarter where no pace was seen. Where one was, it says nothing of how long a busy machine
        may stall: that much is kept as well, if a quarter of the time is as long.
        """
        seconds = self.seconds(tokens)
        kept = whole / 4 if seconds is None else max(seconds, min(_STALL_SECONDS, whole / 4))
        return min(whole / 2, kept)


@dataclass(slots=True)
class Growths:
    """The lengths of all that can be grown, and the pace at which it grows.

    These are whole candidates, single steps of them, and what is bound to a schema.
    """

    whole: Lengths = field(default_factory=Lengths)
    step: Lengths = field(default_factory=Lengths)
    bound: Lengths = field(default_factory=Lengths)
    pace: Pace = field(default_factory=Pace)

    def of(self, until: Literal["step", "end"]) -> Lengths:
        """The lengths of what grows so far."""
        return self.step if until == "step" else self.whole

    def followed(self, fade: float) -> Growths:
        """The same to begin with, from where they follow on by themselves."""
        return Growths(
            Lengths(self.whole.mean, fade, self.whole.spread),
            Lengths(self.step.mean, fade, self.step.spread),
        )


@dataclass(slots=True)
class Experience:
    """What all requests have shown, apart for those whose prompts are of unlike length.

    What was seen of short questions says little of what a long one takes: of a prompt of a size,
    within a factor of two, that wasn't seen yet, nothing is believed.
    """

    bound: Lengths = field(default_factory=Lengths)
    pace: Pace = field(default_factory=Pace)
    _by_size: dict[int, Growths] = field(default_factory=dict)

    def one_pass(self) -> float | None:
        """The seconds that one candidate is likely to take, whatever its prompt; see `Pace`."""
        means = [one.whole.mean for one in self._by_size.values() if one.whole.mean is not None]
        return self.pace.seconds(round(sum(means) / len(means))) if means else None

    def of(self, prompt_tokens: int) -> Growths:
        """What is known of answers to prompts about as long, to be read and added to."""
        size = prompt_tokens.bit_length()
        if size not in self._by_size:
            self._by_size[size] = Growths(bound=self.bound, pace=self.pace)
        return self._by_size[size]


def affordable(left: Budget, prices: Prices, calls: int, prompt_tokens: int) -> int:
    """The completion tokens that `calls` calls with such a prompt can have between them."""
    tokens = _UNLIMITED if left.completion_tokens is None else left.completion_tokens
    if left.micro_usd is not None:
        one_prompt = prices.micro_usd(Cost(prompt_tokens=prompt_tokens))
        # Each call's price is rounded up by itself: one micro-dollar of room for each.
        money = left.micro_usd - calls * (one_prompt + 1)
        if money < 0:
            return 0
        if tokens * prices.completion > money:
            tokens = int(money / prices.completion)
    return tokens


def first_instalments(
    left: Budget,
    prices: Prices,
    *,
    wanted: int,
    prompt_tokens: int,
    max_tokens: int,
    ample: int,
    least: int,
    trust: float,
) -> tuple[int, int]:
    """How many of `wanted` new candidates to start, and the tokens to hold for each.

    (0, 0) when too little is left: for one candidate, less than `least`; for several side by side,
    what is `ample` for each. `trust` in what is ample is the part of what is left that is shared
    out by it, as a question's own candidates may take several times what others' did; those that
    are started with little trust may take twice as much.
    """
    if left.candidates is not None:
        wanted = min(wanted, left.candidates)
    # Candidates of one question are about as long as each other. If all were given just what is
    # likely, all would come up short together, a few tokens before their ends.
    for calls in range(wanted, 0, -1):
        tokens = affordable(left, prices, calls, prompt_tokens)
        if tokens >= calls * max_tokens:
            return calls, max_tokens
        if trust * tokens >= calls * ample:
            return calls, min(max_tokens, int(min(1.0, 2 * trust) * tokens) // calls)
        if calls == 1 and trust and tokens >= least:
            return 1, min(max_tokens, tokens)
    return 0, 0


def next_instalment(
    left: Budget,
    prices: Prices,
    *,
    prompt_tokens: int,
    missing: int,
    likely: int,
    waiting: int,
    alone: bool,
) -> int:
    """The tokens to hold so that a candidate goes on that used up its last instalment.

    `missing` is what it may still take at most; `waiting` candidates wait for as much, itself
    included. It gets all of it where there is enough for all. Else, while others run (not
    `alone`), it waits for a quarter of a likely candidate rather than go on by crumbs, as they may
    give back what they don't need. 0 means to wait, or, alone, that the budget is used up.
    """
    if affordable(left, prices, waiting, prompt_tokens) >= waiting * missing:
        return missing
    tokens = min(missing, affordable(left, prices, 1, prompt_tokens))
    chunk = min(missing, max(16, likely // 4))
    if tokens >= chunk:
        return chunk
    return tokens if alone else 0
