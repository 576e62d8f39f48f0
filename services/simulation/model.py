"""What a simulation goes by: how long workers take, and what they write. One JSON file.

All of it is measured on a service that runs (see `services.simulation.fit`): nothing here is
guessed from data sheets. Times are seconds, lengths are tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from planner.errors import LongthinkError

REFERENCE = Path(__file__).with_name("reference.json")
"""The reference models on a small machine; it says which."""


class ModelError(LongthinkError):
    """A file isn't a model to simulate by."""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """One engine that batches continuously, as vLLM's does.

    A step in which `n` sequences each get a token, with `kv` tokens in their contexts, takes

        step_seconds + n * sequence_seconds + kv * kv_token_seconds

    and one in which `k` begin, with `p` prompt tokens that no cache has, takes

        k * call_seconds + p * prompt_token_seconds

    longer. `batch_seconds` is what a batch of calls takes on its way there and back. At most
    `max_num_seqs` run at once, with `kv_tokens` of KV cache, in blocks of `block_size`, and a step
    reads at most `batched_tokens` of prompts (but one whole prompt always). What would be more than
    `max_queued_requests`, running or waiting, is refused. `cores` are what it keeps busy of a
    machine that it shares.
    """

    step_seconds: float
    sequence_seconds: float
    prompt_token_seconds: float
    kv_token_seconds: float = 0.0
    call_seconds: float = 0.0
    batch_seconds: float = 0.0
    max_num_seqs: int = 64
    kv_tokens: int = 1 << 20
    block_size: int = 32
    batched_tokens: int = 8192
    max_queued_requests: int = 1024
    cores: float = 1.0

    def __post_init__(self) -> None:
        if min(self.step_seconds, self.prompt_token_seconds) < 0 or self.step_seconds == 0:
            raise ModelError("An engine whose steps take no time can't be simulated.")


@dataclass(frozen=True, slots=True)
class OrchestratorModel:
    """What a request, each batch of calls for it, and each call take of an orchestrator's one core.

    `way_seconds` is what a request takes on its way there and back. `cores` are what that keeps
    busy of a machine that it shares, with the proxy and Redis.
    """

    request_seconds: float = 0.0
    call_seconds: float = 0.0
    way_seconds: float = 0.0
    cores: float = 1.0
    batch_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One candidate that was written: the tokens of each step, its answer, each step's score."""

    steps: tuple[int, ...]
    answer: str | None
    scores: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(self.steps)


@dataclass(frozen=True, slots=True)
class Question:
    """A question that was asked, its right answer, and the candidates that were written for it."""

    split: str
    prompt_tokens: int
    answer: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """The workers of one profile on one kind of machine."""

    described: str
    generator: EngineModel
    reward: EngineModel | None
    orchestrator: OrchestratorModel
    questions: tuple[Question, ...]
    context: int = 1024
    ledger_seconds: float = 0.0005

    def of(self, splits: str | None) -> tuple[Question, ...]:
        """The questions of these splits, with commas between them; all, where none is named."""
        wanted = None if splits is None else {name.strip() for name in splits.split(",")}
        found = tuple(one for one in self.questions if wanted is None or one.split in wanted)
        known = sorted({one.split for one in self.questions})
        if not found or (wanted is not None and not wanted <= set(known)):
            raise ModelError(f"The model has questions of {', '.join(known)}; not of {splits}.")
        return found

    @classmethod
    def load(cls, path: Path) -> Self:
        """The model in a file. Raises ModelError."""
        try:
            return cls.read(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{path} is no model to simulate by: {error!r}. `longthink simulate --fit` writes "
                "one."
            ) from error

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """What `data` wrote."""
        reward = data["reward"]
        return cls(
            described=data["described"],
            generator=EngineModel(**data["generator"]),
            reward=None if reward is None else EngineModel(**reward),
            orchestrator=OrchestratorModel(**data["orchestrator"]),
            questions=tuple(_read_question(one) for one in data["questions"]),
            context=data["context"],
            ledger_seconds=data["ledger_seconds"],
        )

    def data(self) -> dict[str, Any]:
        """As JSON data; of a sample, its steps, its answer and their scores."""
        return {
            "described": self.described,
            "generator": asdict(self.generator),
            "reward": None if self.reward is None else asdict(self.reward),
            "orchestrator": asdict(self.orchestrator),
            "context": self.context,
            "ledger_seconds": self.ledger_seconds,
            "questions": [_question_data(one) for one in self.questions],
        }

    def save(self, path: Path) -> None:
        """Write it into a file, a question a line."""
        data = self.data()
        questions = data.pop("questions")
        lines = ",\n".join("    " + json.dumps(one) for one in questions)
        head = json.dumps(data, indent=2).removesuffix("\n}")
        path.write_text(f'{head},\n  "questions": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def _question_data(question: Question) -> dict[str, Any]:
    return {
        "split": question.split,
        "prompt_tokens": question.prompt_tokens,
        "answer": question.answer,
        "samples": [
            [list(one.steps), one.answer, [round(score, 3) for score in one.scores]]
            for one in question.samples
        ],
    }


def _read_question(data: Mapping[str, Any]) -> Question:
    samples = tuple(
        Sample(tuple(steps), answer, tuple(scores)) for steps, answer, scores in data["samples"]
    )
    if not samples or any(min(one.steps, default=0) < 1 for one in samples):
        raise ModelError("Each question needs samples, and each of their steps a token.")
    return Question(data["split"], data["prompt_tokens"], data["answer"], samples)
