"""The search contract: ask what to do, tell how it went.

A search owns what has been asked and told, and nothing else: no clock, no socket, no ledger, no
worker's exception. What always holds:

- every task asked is told exactly once; telling it again changes nothing;
- the same configuration, seed and sequence of tells give the same asks and the same outcome;
- `best()` has an answer as soon as one candidate has finished, whatever failed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.domain import News, Outcome, Query, Result, Share, Stopped, Task
from planner.outlook import Lesson, Outlook
from planner.selection import Selector
from planner.stopping import Stop


@dataclass(frozen=True, slots=True)
class Setup:
    """What a strategy is given to work with.

    `grades` says whether there is a reward model, `verifies` whether answers can be compared.
    `context` is how many tokens the model takes after the query, `tokens` how many completion
    tokens the budget has, `likely` how many of them a whole candidate is likely to take, and `long`
    how many a long one; None where that isn't known, or there is no limit. Of `tokens`, so many are
    `spent` already. `prompt` is how many tokens the query itself takes, and `draft` how many a plan
    is likely to take, once the service has seen any. `timed` says whether there is a deadline.
    `trial` says whether it is one of several ways that are tried: where it doesn't suit the
    question, it ends for little, without going another way. Without `strict`, nobody has set
    `candidates` as a limit: it says how much to think, in samples of the whole question. `doubts`
    says whether a step of a plan, or its last pass, is also told how sure the answers are that it
    builds on; `plain` is then the step's question without that. `outlook` is what past requests
    have found of what more compute is worth.
    """

    query: Query
    candidates: int
    selector: Selector
    stop: Stop
    grades: bool
    verifies: bool = False
    context: int | None = None
    tokens: int | None = None
    likely: int | None = None
    long: int | None = None
    spent: int = 0
    prompt: int | None = None
    draft: int | None = None
    timed: bool = False
    trial: bool = False
    strict: bool = True
    doubts: bool = False
    plain: str | None = None
    outlook: Outlook = field(default_factory=Outlook)


class Search(ABC):
    """One search of one query."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @property
    def needs_logprobs(self) -> bool:
        """Whether the choice of the answer, or a stopping rule, hangs on how sure the model was."""
        return self.setup.selector.needs_logprobs or self.setup.stop.needs_logprobs

    @abstractmethod
    def ask(self, room: int) -> Sequence[Task]:
        """Tasks to start now, at most `room` of them; none where results have to come first."""

    @abstractmethod
    def tell(self, task: Task, result: Result) -> None:
        """How `task` ended. Once for each task, in any order."""

    @abstractmethod
    def surplus(self) -> Sequence[Task]:
        """Tasks in flight whose results can no longer change the answer."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether asking again would bring nothing and nothing awaited matters."""

    @property
    @abstractmethod
    def stopped(self) -> Stopped | None:
        """What ended it, once it is done."""

    @abstractmethod
    def best(self) -> Outcome:
        """The outcome if it had to stop now."""

    @abstractmethod
    def progress(self) -> tuple[int, int]:
        """Candidates finished, and candidates it means to have at most."""

    def widen(self, candidates: int) -> bool:
        """Have it go on to so many candidates in all; whether it can."""
        return False

    def hurry(self) -> None:  # noqa: B027  most searches have nothing to change
        """Time is nearly up: what is asked from now on has to end within one pass."""

    def shares(self) -> Mapping[str, Share]:
        """The shares of the budget that its tasks name; one that isn't there is at its end."""
        return {}

    def news(self) -> Sequence[News]:
        """What it has to say of its plans and decisions since it was last asked for that."""
        return ()

    def lessons(self) -> Sequence[Lesson]:
        """What became of its decisions, for those to come."""
        return ()
