"""The nouns of a search, as bare frozen data.

Everything the brain, the hands and the edge say to each other about a query is one of these.
Nothing here does I/O, reads a clock or depends on anything but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

Path: TypeAlias = tuple[int, ...]
"""Where a node stands in the search tree: the index of each branch from the root down."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a candidate is sampled. `max_tokens` is the length of one whole candidate, in tokens."""

    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """How programs that are answers are compared: by what they give for each of these inputs.

    An input is a standard input, or, where `entry` names a function, the JSON array of its
    arguments.
    """

    inputs: tuple[str, ...]
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """The conversation and its options, as the search sees it.

    With `code`, answers are Python programs: the last fenced block of each candidate.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    seed: int = 0
    code: Code | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What something cost, as a vector. All are counts; money is in millionths of a US dollar.

    `prompt_tokens` counts the prompt of every engine call, `cached_tokens` the part of it that
    came from the prefix cache, `reward_tokens` what reward models read.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reward_tokens: int = 0
    candidates: int = 0
    micro_usd: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reward_tokens + other.reward_tokens,
            self.candidates + other.candidates,
            self.micro_usd + other.micro_usd,
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on a request's cost, `None` for no limit, and a deadline in seconds from its start."""

    completion_tokens: int | None = None
    reward_tokens: int | None = None
    candidates: int | None = None
    micro_usd: int | None = None
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens, which is micro-dollars per token."""

    prompt: float = 0.0
    completion: float = 0.0
    reward: float = 0.0

    def micro_usd(self, cost: Cost) -> int:
        """The price of `cost` in whole micro-dollars, rounded up."""
        exact = (
            cost.prompt_tokens * self.prompt
            + cost.completion_tokens * self.completion
            + cost.reward_tokens * self.reward
        )
        # A billionth of slack keeps 3 * 0.1 from being rounded up to the next micro-dollar.
        return -int(-(exact - 1e-9) // 1) if exact > 0 else 0


class Finish(StrEnum):
    """Why the generation of a candidate paused or ended."""

    STOP = "stop"  # the model ended it, or a stop string of the user did
    STEP = "step"  # a step delimiter: it can be continued
    LENGTH = "length"  # the candidate's own max_tokens, or the model's context
    BUDGET = "budget"  # the request's budget ran out under it
    DOUBTFUL = "doubtful"  # the model was less sure of it than its floor says
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A path of steps from the query, finished or partial.

    Continue it from `token_ids`, never from `text` tokenised again. `step_scores` are in [0, 1],
    one per graded step; `score` is their aggregate or an outcome reward, in [0, 1].
    `token_confidences` has one for each token (see `planner.confidence`), if they were asked for.
    `answer` is the answer it gives, as written, where that is known and need not be looked for.
    """

    path: Path
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish: Finish = Finish.STEP
    logprob: float | None = None
    step_scores: tuple[float, ...] = ()
    score: float | None = None
    token_confidences: tuple[float, ...] = ()
    answer: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing can be added to it: the model ended it or its length is used up."""
        return self.finish in (Finish.STOP, Finish.LENGTH)

    def graded(self, step_scores: tuple[float, ...], score: float) -> Candidate:
        """This candidate with its grades."""
        return replace(self, step_scores=step_scores, score=score)


@dataclass(frozen=True, slots=True)
class Floor:
    """The least that the mean confidence of any `window` tokens in a row may be, in nats."""

    confidence: float
    window: int


Writer: TypeAlias = Literal["reasoner", "planner"]
"""Who writes a text: the model that answers, or the one that plans, which may be the same."""


@dataclass(frozen=True, slots=True)
class Expand:
    """Sample one continuation of `parent` (of the query itself, if None) as the node `path`.

    It ends at the next step delimiter or at the end of the answer. `max_tokens` bounds the
    continuation, `temperature` overrides the query's. Under its `floor` the candidate is given up.
    `append` is put after the parent before it goes on (a parent that the model had ended is opened
    again). `messages` are asked instead of the query's; what comes back is the reply to them.
    `stop` ends it too, beside the query's. What a judge says is no candidate, and isn't counted.
    With a `schema`, a JSON schema as text, it is JSON that keeps to that. `share` names the share
    of the request's budget that pays for it; None, what is in no share. `writer` is whose model
    writes it: what one has written, the other can't continue.
    """

    path: Path
    parent: Candidate | None = None
    append: str = ""
    messages: tuple[Message, ...] | None = None
    stop: tuple[str, ...] = ()
    counts: bool = True
    until: Literal["step", "end"] = "end"
    max_tokens: int | None = None
    temperature: float | None = None
    floor: Floor | None = None
    schema: str | None = None
    share: str | None = None
    writer: Writer = "reasoner"

    @property
    def id(self) -> str:
        return "expand:" + ".".join(map(str, self.path))


@dataclass(frozen=True, slots=True)
class Grade:
    """Score one candidate with the reward model, as a reply to `messages` (else to the query's).

    `share` is as in `Expand`.
    """

    candidate: Candidate
    messages: tuple[Message, ...] | None = None
    share: str | None = None

    @property
    def id(self) -> str:
        return "grade:" + ".".join(map(str, self.candidate.path))


@dataclass(frozen=True, slots=True)
class Verify:
    """Say which of these distinct canonical answers are the same.

    The first `apart` of them are known to differ from one another. Formulas are the same where
    they are mathematically equal; with `code` they are programs, the same where they give the same
    output for each of its inputs. `path` is where the search stands in another one that compares
    them.
    """

    answers: tuple[str, ...]
    apart: int = 0
    code: Code | None = None
    path: Path = ()

    @property
    def id(self) -> str:
        name = "\0".join((str(self.apart), *self.answers)).encode()
        place = ".".join(map(str, self.path)) + ":" if self.path else ""
        return f"verify:{place}{blake2b(name, digest_size=8).hexdigest()}"


Task: TypeAlias = Expand | Grade | Verify


@dataclass(frozen=True, slots=True)
class Result:
    """How a task ended. Every task ends exactly once.

    `candidate` is what an `Expand` made (also a partial one, where it was cut or cancelled), or
    what a `Grade` graded; it is None where nothing came of the task. `same` is what a `Verify`
    found: groups of two or more answers that are one. `notes` say what couldn't be done. `cost` is
    what it took, however it ended.
    """

    task_id: str
    status: Literal["done", "failed", "cancelled"]
    candidate: Candidate | None = None
    cost: Cost = Cost()
    error: str | None = None
    worker: str | None = None
    same: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


class Stopped(StrEnum):
    """What ended a search."""

    CERTAIN = "certain"  # nothing still to come could change the answer
    CONFIDENT = "confident"  # a stopping rule was satisfied
    COMPLETE = "complete"  # the strategy did all it set out to do
    BUDGET = "budget"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"


CUT_SHORT = (Stopped.BUDGET, Stopped.DEADLINE, Stopped.CANCELLED)
"""What ends a search that would have gone on."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One distinct answer: how many candidates gave it, and the sum of their scores."""

    answer: str
    count: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer so far and what stands behind it.

    `ranked` holds the best candidate of each distinct answer, best first; `notes` say where
    something other than what was asked for had to be done (a fallback of the selector, say).
    `silent` candidates have finished and give no answer, so that they aren't among the votes.
    """

    ranked: tuple[Candidate, ...] = ()
    answer: str | None = None
    confidence: float = 0.0
    votes: tuple[Vote, ...] = ()
    stopped: Stopped | None = None
    selector: str = ""
    notes: tuple[str, ...] = field(default=())
    silent: int = 0

    @property
    def finished(self) -> int:
        """The candidates that the answer was chosen among."""
        return self.silent + sum(vote.count for vote in self.votes)

    @property
    def best(self) -> Candidate | None:
        return self.ranked[0] if self.ranked else None


@dataclass(frozen=True, slots=True)
class Share:
    """What a part of a search may spend in all, as a part of its request's budget.

    `completion_tokens` and `candidates` are counts, None for no limit but the request's; of every
    other dimension that the request limits it may spend the fraction `part`.
    """

    completion_tokens: int | None
    candidates: int | None
    part: float


@dataclass(frozen=True, slots=True)
class News:
    """Something a search has to say of what it is about, for the trace. `data` is JSON.

    - `planned`: a plan was made. `path`, under which its steps lie; `steps`, each with its `id`,
      `question`, `needs` (ids) and `path`, under which all that is sampled for it lies; `notes`.
    - `step`: a step of a plan has begun, ended, or is tried again. `path`, `id`, `state` ("begun",
      "ended", "again"), `question` with the answers it needed put in, `strategy`, `candidates` it
      may take, `tokens` spent on it so far and `share`, the tokens it may spend (None without a
      limit); where it has ended, its `answer`, `confidence` and `stopped`.
    - `decided`: the search at `path` chose how to go on. `what` ("probe", "stop", "widen", "tree",
      "decompose" or "judge"), `why` in a sentence, and the `figures` it was decided on.
    """

    kind: Literal["planned", "step", "decided"]
    data: Mapping[str, Any]


def derive_seed(request_seed: int, path: Path, offset: int = 0) -> int:
    """The sampling seed of a node: the same wherever and whenever the node is sampled.

    It depends on the request's seed, the node's path and the token offset at which sampling
    (re)starts, never on the order of arrival. 63 bits, so that it fits a signed integer.
    """
    name = f"{request_seed}/{'.'.join(map(str, path))}/{offset}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 1
