"""What a planner is asked to write: drafts of a plan, of which the most faithful are kept.

What always holds: what is written here is no candidate, and is paid for by a share of its own, so
that no search starves for a plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from planner.decompose.plan import SCHEMA, Plan, faithfulness, read_plan
from planner.domain import Candidate, Expand, Message, Result, Share, Task
from planner.prompts import asked, plan_messages
from planner.search.base import Setup

DRAFTS = 8
"""Plans that are written at most."""
FIRST_DRAFTS = 2
"""Where a plan is only tried, so many are written first, and more if these show promise."""
FAITHFUL = 0.8
"""A plan that is less faithful to its question than this is no plan of it."""
PROMISING = 0.6
DRAFTING = 0.5
"""The part of the tokens that plans may take: no search makes good what a wrong plan asks."""
PLAN_TOKENS = 1024
_PLAN_LENGTH = 1.6
"""Where no plan was seen yet, one is likely to be so many times as long as the question."""
_PLAN_TEMPERATURE = 0.5

_SHARE = "drafts"


class Drafting:
    """What is written of plans under the node `branch`, and the plans that came of it."""

    def __init__(self, setup: Setup, branch: int) -> None:
        self.plans: list[tuple[float, Plan]] = []
        """Plans that can be followed, the best first, each with how faithful it is."""
        self.note = ""
        """Why there is none, where there is none."""
        self._setup = setup
        self._branch = branch
        self._messages: tuple[Message, ...] = ()
        """What asks for a plan."""
        self._asked = 0
        self._waiting: deque[Expand] = deque()
        self._flying: dict[str, Expand] = {}
        self._more = 0
        """How many more drafts will be written, if the first show promise."""
        self._written: list[Candidate] = []

    @property
    def pending(self) -> bool:
        """Whether something is still to be written."""
        return bool(self._waiting or self._flying)

    def begin(self, conversation: Sequence[Mapping[str, str]]) -> bool:
        """Have plans of a conversation written; False where none can be afforded."""
        count = self._affordable()
        first = min(count, FIRST_DRAFTS) if self._setup.trial else count
        self._more = count - first
        self._messages = asked(plan_messages(conversation))
        self._draft(first)
        return count > 0

    def write(
        self, messages: tuple[Message, ...], temperature: float, schema: str | None = None
    ) -> None:
        """Have the planner write something that is no answer: a plan, say."""
        length = PLAN_TOKENS
        if self._setup.context is not None:
            length = max(1, min(length, self._setup.context // 2))
        self._waiting.append(
            Expand(
                (self._branch, self._asked),
                messages=messages,
                counts=False,
                max_tokens=length,
                temperature=temperature,
                schema=schema,
                share=_SHARE,
                writer="planner",
            )
        )
        self._asked += 1

    def ask(self, room: int) -> list[Task]:
        """What is to be written now."""
        tasks: list[Task] = []
        while self._waiting and len(tasks) < room:
            draft = self._waiting.popleft()
            self._flying[draft.id] = draft
            tasks.append(draft)
        return tasks

    def took(self, task: Task) -> bool:
        """Whether a task that has ended was one of these."""
        return self._flying.pop(task.id, None) is not None

    def add(self, result: Result) -> None:
        """One draft was written, or came to nothing."""
        if result.candidate is not None and result.status == "done":
            self._written.append(result.candidate)

    def in_flight(self) -> list[Task]:
        """What is being written."""
        return list(self._flying.values())

    def stop(self) -> None:
        """Have nothing more written."""
        self._waiting.clear()

    def shares(self) -> Mapping[str, Share]:
        """What may be spent on it, while there is something to write."""
        if not self.pending:
            return {}
        tokens = None if self._setup.tokens is None else int(DRAFTING * self._setup.tokens)
        return {_SHARE: Share(tokens, 0, DRAFTING)}

    def judge(self, question: str, plain: str, most_steps: int) -> None:
        """Settle which plans of the question to follow, or have more written where that pays.

        They have to keep to what is `plain` of it. A plan has two steps or more, or it splits
        nothing, and no more than there is for.
        """
        read = [(draft, read_plan(draft.text, question)) for draft in self._written]
        found = {
            plan.steps: (faithfulness(plan, plain), draft.path, plan)
            for draft, plan in sorted(read, key=lambda one: one[0].path, reverse=True)
            if plan is not None and 2 <= len(plan.steps) <= most_steps
        }
        ranked = sorted(found.values(), key=lambda one: (-one[0], one[1]))
        best = ranked[0][0] if ranked else None
        if self._more and best is not None and best >= PROMISING:
            more, self._more = self._more, 0
            self._draft(more)
            return
        count, self._written = len(self._written), []
        self.plans = [(worth, plan) for worth, _, plan in ranked if worth >= FAITHFUL]
        if not self.plans:
            self.note = _none_of(count, best)

    def _draft(self, count: int) -> None:
        for _ in range(count):
            self.write(self._messages, _PLAN_TEMPERATURE, schema=SCHEMA)

    def _affordable(self) -> int:
        """How many plans to write: as many as a part of the budget pays for."""
        setup = self._setup
        if setup.candidates < 3:
            return 0
        wanted = max(1, min(DRAFTS, setup.candidates // 2))
        if setup.tokens is None:
            return wanted
        likely = setup.draft or max(1, round(_PLAN_LENGTH * (setup.prompt or setup.likely or 1)))
        if setup.tokens < likely + 2 * (setup.likely or 1):
            return 0
        return max(1, min(wanted, int(DRAFTING * setup.tokens / likely)))


def _none_of(count: int, best: float | None) -> str:
    """Why none of so many drafts is a plan, of which the best keeps so much of the question."""
    if best is not None:
        kept = f"the best keeps {best:.0%} of what the question says"
        return f"None of {count} plans is one of the question: {kept}."
    return f"None of {count} plans could be followed." if count else "No plan could be written."
