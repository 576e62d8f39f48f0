"""What the command line asks to be measured, settled before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from planner.errors import InvalidOption
from services.evaluation import hub, questions
from services.evaluation.questions import Question
from services.evaluation.results import Results, ResultsError
from services.evaluation.variants import SINGLE, Variant, Worth, on_record, variants

_QUESTIONS_OF_A_SPLIT = 300
_CANDIDATES = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    `tokens` are the completion tokens of a candidate, where they were named, and `width` is
    `Worth`'s: both matter to variants only that count candidates' worth.
    """

    source: str
    questions: tuple[Question, ...]
    variants: tuple[Variant, ...]
    seed: int
    temperature: float
    max_tokens: int | None
    tokens: float | None
    width: float

    @classmethod
    def of(
        cls,
        *,
        split: str | None,
        file: Path | None,
        dataset: str | None,
        strategies: str,
        candidates: str | None,
        budgets: str | None,
        tokens: float | None,
        width: float,
        limit: int | None,
        seed: int,
        temperature: float,
        max_tokens: int | None,
    ) -> Self:
        """The plan that the command line tells. Raises InvalidOption."""
        worths = _counts("--budgets", budgets)
        counts = _counts("--candidates", candidates)
        if candidates is None and budgets is None:
            counts = [_CANDIDATES]
        compared = variants(_listed(strategies), counts, worths)
        if tokens is None and worths and SINGLE not in compared:
            compared = (SINGLE, *compared)
        source, drawn = _drawn(split, file, dataset, limit, seed)
        return cls(source, drawn, compared, seed, temperature, max_tokens, tokens, width)

    @property
    def samples_first(self) -> bool:
        """Whether single samples have to show first how long a candidate is."""
        return self._counts_worth and self.tokens is None

    def worth(self, kept: Results) -> Worth | None:
        """What a candidate is worth, once single samples are there; None where nothing counts it,
        neither here nor on record.

        Found once for a folder of results. Raises ResultsError where no sample has a reply.
        """
        if not self._counts_worth and not any(one.worth for one in on_record(kept)):
            return None
        if self.tokens is not None:
            return Worth(self.tokens, self.width)
        tokens = kept.settled("tokens_per_candidate", lambda: _mean_tokens(kept))
        return Worth(tokens, self.width)

    def configuration(self, model: str) -> dict[str, Any]:
        """What makes two runs the same run, to which other strategies may be added."""
        return {
            "questions": self.source,
            "limit": len(self.questions),
            "seed": self.seed,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "model": model,
            "fingerprint": questions.fingerprint(self.questions),
            "tokens_per_candidate": self.tokens,
            "width": self.width,
        }

    @property
    def _counts_worth(self) -> bool:
        return any(variant.worth for variant in self.variants)


def _drawn(
    split: str | None, file: Path | None, dataset: str | None, limit: int | None, seed: int
) -> tuple[str, tuple[Question, ...]]:
    """Where the questions come from, and which they are."""
    match split, file, dataset:
        case str(), None, None:
            return split, questions.synthetic(split, limit or _QUESTIONS_OF_A_SPLIT, seed)
        case None, Path(), None:
            return file.name, questions.from_files((file,), limit, seed)
        case None, None, str():
            return dataset, questions.from_files(hub.fetched(dataset), limit, seed)
        case _:
            raise InvalidOption("Name the questions: either --split or --file or --dataset.")


def _mean_tokens(kept: Results) -> float:
    tokens = [one.completion_tokens for one in kept.of(SINGLE.key) if one.error is None]
    if not any(tokens):
        raise ResultsError(
            f"{kept.path}: no single sample has a reply, so nobody knows how many tokens a "
            "candidate takes. Name them with --tokens-per-candidate."
        )
    return fmean(tokens)


def _listed(text: str) -> list[str]:
    """What commas separate, but for those in brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def _counts(option: str, text: str | None) -> list[int]:
    try:
        return [int(part) for part in _listed(text or "")]
    except ValueError:
        raise InvalidOption(
            f"{option} takes whole numbers with commas between them, not {text!r}."
        ) from None
