"""Step scores from a saved PRM with vLLM itself, for measuring.

The text it reads is the conversation and the solution in the chat template, each step followed
by the step tag in place of its newline.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm import LLM
from vllm.config import PoolerConfig

from workers.reference import STEP_TAG, tokens
from workers.reference.labels import steps_of


@dataclass(frozen=True, slots=True)
class Solution:
    """A question and what was written to it."""

    question: str
    text: str


class Grader:
    """A vLLM engine of its own for one PRM."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        self._engine = LLM(
            model=str(folder),
            runner="pooling",
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=tokens.CONTEXT,
            enable_prefix_caching=False,
            enable_chunked_prefill=False,
            pooler_config=PoolerConfig(step_tag_id=self._tag(folder)),
            disable_log_stats=True,
        )

    def grade(self, solutions: Sequence[Solution]) -> list[list[float]]:
        """For each solution, after each step, how likely all so far is right: 0 to 1.

        A solution without any step has no scores.
        """
        graded: list[list[float]] = [[] for _ in solutions]
        places = [place for place, each in enumerate(solutions) if steps_of(each.text)]
        texts = [_text(solutions[place]) for place in places]
        for place, output in zip(
            places, self._engine.encode(texts, pooling_task="token_classify"), strict=True
        ):
            graded[place] = output.outputs.data[:, 1].float().tolist()
        return graded

    @staticmethod
    def _tag(folder: Path) -> int:
        tag = tokens.load(folder).convert_tokens_to_ids(STEP_TAG)
        if not isinstance(tag, int):
            raise TypeError(f"{STEP_TAG} is not one token of {folder}.")
        return tag


def _text(solution: Solution) -> str:
    asked = tokens.prompt_text([{"role": "user", "content": solution.question}])
    return asked + "".join(step + STEP_TAG for step in steps_of(solution.text))
