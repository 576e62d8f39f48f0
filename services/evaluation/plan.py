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
from services.evaluation.variants import (
    SINGLE,
    Variant,
    Worth,
    on_record,
    split_outside,
    variants,
)

_QUESTIONS_OF_A_SPLIT = 300
_CANDIDATES = 16
_STRATEGIES = "single,majority,best_of_n"


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
        strategies: str | None,
        efforts: str | None,
        candidates: str | None,
        budgets: str | None,
        deadlines: str | None,
        tokens: float | None,
        width: float,
        limit: int | None,
        seed: int,
        temperature: float,
        max_tokens: int | None,
    ) -> Self:
        """The plan that the command line tells. Raises InvalidOption.

        Where neither strategies nor efforts are named, the usual strategies are compared.
        """
        worths = _counts("--budgets", budgets)
        counts = _counts("--candidates", candidates)
        dues = _seconds("--deadlines", deadlines)
        words = _listed(efforts or "")
        written = _written(strategies, words, numbered=bool(counts or worths))
        if candidates is None and budgets is None and not dues:
            counts = [_CANDIDATES]
        compared = variants(written, counts, worths, deadlines=dues, efforts=words)
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
    def described(self) -> str:
        """The questions in a few words."""
        return f"{self.source}, {len(self.questions)} questions, seed {self.seed}"

    @property
    def _counts_worth(self) -> bool:
        return any(variant.worth for variant in self.variants)


def _drawn(
    split: str | None, file: Path | None, dataset: str | None, limit: int | None, seed: int
) -> tuple[str, tuple[Question, ...]]:
    """Where the questions come from, and which they are."""
    match split, file, dataset:
        case str(), None, None:
            return split, questions.mixed(split, limit or _QUESTIONS_OF_A_SPLIT, seed)
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
    return [part.strip() for part in split_outside(text, ",") if part.strip()]


def _counts(option: str, text: str | None) -> list[int]:
    try:
        return [int(part) for part in _listed(text or "")]
    except ValueError:
        raise InvalidOption(
            f"{option} takes whole numbers with commas between them, not {text!r}."
        ) from None


def _written(strategies: str | None, efforts: list[str], *, numbered: bool) -> list[str]:
    """The strategies that are meant; the usual ones where nothing is named."""
    if strategies is None and not efforts:
        return _listed(_STRATEGIES)
    written = _listed(strategies or "")
    if strategies is not None and not written:
        raise InvalidOption("Name at least one strategy, or leave out --strategies.")
    if numbered and not written:
        raise InvalidOption(
            "An effort says by itself what it spends: --candidates and --budgets are for "
            "strategies, which --strategies names."
        )
    return written


def _seconds(option: str, text: str | None) -> list[float]:
    try:
        return [float(part) for part in _listed(text or "")]
    except ValueError:
        raise InvalidOption(
            f"{option} takes seconds with commas between them, not {text!r}."
        ) from None
