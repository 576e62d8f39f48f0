"""What the PRM learns from: several solutions of one question, every token with its label.

A token's label says whether all that stands up to it can still be part of a right solution; a
step tag's label, whether all steps before it are right. Both are exact. One row holds a question
once and its solutions side by side, each of which sees the question and itself alone.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from planner import prompts
from workers.reference import STEP_TAG, drills, tokens
from workers.reference.synthetic import ANSWER_MARK, Query, first_wrong_step, parse_step, steps_left

_DRILLS = 40


@dataclass(frozen=True, slots=True)
class Row:
    """A question's ids and, from `starts[0]` on, its solutions, each up to the next start.

    `labels` belong to the tokens from `starts[0]` on: 1 right, 0 wrong. `learn` says which of
    the solutions are right throughout, so that a language model may learn them.
    """

    ids: Sequence[int]
    starts: Sequence[int]
    labels: Sequence[int]
    learn: Sequence[bool]


def steps_of(text: str) -> list[str]:
    """The steps of a written solution: its lines, empty ones left out."""
    return [line for line in text.split("\n") if line.strip()]


def row(tokenizer: PreTrainedTokenizerFast, query: Query, solutions: Sequence[str]) -> Row:
    """The question and its solutions as the PRM sees them, with labels."""
    marked = []
    for solution in solutions:
        steps = steps_of(solution)
        marked.append((steps, _right_characters(query, steps, first_wrong_step(query, steps))))
    return _row(tokenizer, query.question, marked)


def drill_row(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Row:
    """Many steps side by side that have nothing to do with each other, with labels."""
    drawn = (drills.drill(rng) for _ in range(_DRILLS))
    return _row(tokenizer, drills.QUESTION, [([step], good) for step, good in drawn])


def _row(
    tokenizer: PreTrainedTokenizerFast, question: str, marked: Sequence[tuple[Sequence[str], int]]
) -> Row:
    """The row of a question and solutions, each with how many of its characters are right."""
    asked: list[prompts.Message] = [{"role": "user", "content": question}]
    ids = list(tokenizer.backend_tokenizer.encode(tokens.prompt_text(asked)).ids)
    starts, labels, learn = [], [], []
    for steps, good in marked:
        text = "".join(step + STEP_TAG for step in steps)
        encoded = tokenizer.backend_tokenizer.encode(text)
        starts.append(len(ids))
        ids += encoded.ids
        labels += [int(end <= good) for _, end in encoded.offsets]
        learn.append(good == len(text))
    return Row(ids, starts, labels, learn)


def _right_characters(query: Query, steps: Sequence[str], wrong: int | None) -> int:
    """How many characters of the tagged steps, joined, can still become a right solution."""
    if wrong is None:
        return sum(len(step) + len(STEP_TAG) for step in steps)
    fitting = max(_shared(form, steps[wrong]) for form in _next(query, steps[:wrong]))
    whole = sum(len(step) + len(STEP_TAG) for step in steps[:wrong])
    return whole + fitting


def _next(query: Query, taken: Sequence[str]) -> list[str]:
    """Every way to write a step that may come after the steps taken."""
    forms = [ANSWER_MARK + query.answer]
    for step in steps_left(query, taken):
        forms.append(step)
        parsed = parse_step(step)
        if parsed is not None and parsed[1] in "+*":
            forms.append(f"{parsed[2]} {parsed[1]} {parsed[0]} = {parsed[3]}")
    return forms


def _shared(one: str, other: str) -> int:
    """How many characters two texts start with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def layout(rows: Sequence[Row], filler: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [rows, length], positions [rows, length] and who may see whom [rows, length, length].

    Each solution's positions go on from the question's; a token sees the question and what
    stands before it in its own solution.
    """
    length = max(len(each.ids) for each in rows)
    ids = torch.full((len(rows), length), filler)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    parts = torch.full((len(rows), length), -1)
    for place, each in enumerate(rows):
        question, end = each.starts[0], len(each.ids)
        ids[place, :end] = torch.tensor(each.ids)
        positions[place, :question] = torch.arange(question)
        parts[place, :question] = 0
        for part, (start, stop) in enumerate(pairwise((*each.starts, end)), 1):
            positions[place, start:stop] = torch.arange(question, question + stop - start)
            parts[place, start:stop] = part
    same = parts[:, :, None] == parts[:, None, :]
    sees = (same | (parts == 0)[:, None, :]).tril()
    return ids, positions, sees
