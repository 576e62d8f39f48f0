"""All that passes between the driver and the workers: read it and you know who says what to whom.

Bare frozen data that crosses process borders. Token ids, not text, say where a generation starts
and what it made; every call ends in exactly one `Generated` or `Graded`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from planner.domain import Code, Floor, Writer

Branch: TypeAlias = tuple[str | int, ...]
"""A node of a search tree: a name for the request, then the path from its query to the node."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the model reads it. `context_left` is how many tokens may still follow.

    `end_ids` are the tokens with which the model ends a reply.
    """

    token_ids: tuple[int, ...]
    context_left: int
    end_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Generate:
    """Sample one continuation of `prompt_ids`, of at most `max_tokens` tokens.

    `id` is unlike that of any other call in flight, whoever made it: it is what `cancel` goes by.
    Each of `stop` and of `delimiters` ends it. A delimiter stays in what comes back, since it
    belongs to its step; a stop string of the user doesn't. `stream` asks for `Tokens`
    as they come. `top_logprobs` above zero asks for the log-probabilities of that many tokens a
    position. With them, a call is given up as soon as its tokens fall under `floor`, to whose first
    windows belong the tokens before it, with these `confidences` (see `planner.confidence`). Of
    calls that wait, those of the lowest `priority` run first. With a `schema` it is JSON that keeps
    to that, and no other call continues it. `branch` is the node that it writes, whose KV cache
    lies where its parent was written; empty, it may as well run anywhere. `writer` is whose model
    writes it, in whose tokens `prompt_ids` are. What was read for one `cache_salt` is taken from
    the prefix cache for no other. It is sent to another worker than the one that has the call
    `rival`, of which it is a second try.
    """

    id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.8
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    delimiters: tuple[str, ...] = ()
    top_logprobs: int = 0
    floor: Floor | None = None
    confidences: tuple[float, ...] = ()
    stream: bool = False
    priority: int = 0
    schema: str | None = None
    branch: Branch = ()
    writer: Writer = "reasoner"
    cache_salt: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Text and tokens that came since the last one, of a call that asked to be streamed."""

    id: str
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a call took its worker, in seconds by the worker's own clock.

    Until it was `queued` no more and the engine worked on it, and until its `first` token, both
    counted from its place in the engine's queue; None where the engine didn't say.
    """

    seconds: float
    queued: float | None = None
    first: float | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """How a `Generate` ended.

    `finish` is "stop" when the model or a stop string ended it, "step" for a step delimiter,
    "length" at `max_tokens`, "doubtful" when it fell under its floor (with its last token, too),
    "cancelled", or "failed" (then `error` says why, and `lost` whether the worker itself was lost,
    so that another may be tried). What continues `token_ids` continues `text`: where a stop string
    was cut off, neither has it. The counts are the engine's own: what they add up to is what the
    engine's counters show; `logprob` and `top_logprobs` too are those of all that it made.
    """

    id: str
    finish: Literal["stop", "step", "length", "doubtful", "cancelled", "failed"]
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprob: float | None = None
    top_logprobs: tuple[tuple[float, ...], ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    worker: str = ""
    error: str | None = None
    lost: bool = False
    timing: Timing | None = field(default=None, compare=False)


GenerationEvent: TypeAlias = Tokens | Generated


@dataclass(frozen=True, slots=True)
class Grade:
    """Score the steps of one candidate. `messages` are (role, content) pairs.

    `steps` are its text without the `delimiter` that stood between them: a process reward model
    reads its step tags there, an outcome reward model the delimiters. `max_tokens` is what it may
    read; what takes more isn't scored, and the reply says how many tokens it needs. Of calls that
    wait, those of the lowest `priority` run first. `branch` is the node that it grades: a reward
    model has read its parent where that was graded. `cache_salt` as in `Generate`.
    """

    id: str
    messages: tuple[tuple[str, str], ...]
    steps: tuple[str, ...]
    max_tokens: int
    delimiter: str = "\n"
    priority: int = 0
    branch: Branch = ()
    cache_salt: str = ""


GradeFinish: TypeAlias = Literal["done", "unaffordable", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class Graded:
    """How a `Grade` ended.

    `step_scores` are in [0, 1], one a step; an outcome reward model gives one for all.
    `finish` is "done", "unaffordable" (it `needs` more tokens than it was allowed), "cancelled" or
    "failed". `reward_tokens` is what the engine's counters show for it, however it ended, and
    `cached_tokens` the part of it that came from the prefix cache.
    """

    id: str
    finish: GradeFinish
    step_scores: tuple[float, ...] = ()
    reward_tokens: int = 0
    cached_tokens: int = 0
    needs: int = 0
    worker: str = ""
    error: str | None = None
    lost: bool = False
    timing: Timing | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Verify:
    """Say which of these distinct canonical answers are one.

    See `planner.domain.Verify`, whose fields these are; `id` is unlike that of any other call in
    flight.
    """

    id: str
    answers: tuple[str, ...]
    apart: int = 0
    code: Code | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """How a `Verify` ended: "done", "cancelled" or "failed" (then `error` says why).

    `same` are groups of two or more of its answers that are one; an answer that is in none is
    equal to no other. What couldn't be compared counts as different, and `notes` say so.
    """

    id: str
    finish: Literal["done", "cancelled", "failed"]
    same: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    worker: str = ""
    error: str | None = None
