"""Training of the PRM: labels on the tokens of right and wrong solutions, and language too.

It starts as the reasoner, deeper, and goes on from there, so it knows all that the reasoner
knows and more. Wrong solutions are the reasoner's own samples and made-up slips; drills of single
steps, right and wrong, teach it the arithmetic that nearly all of the mistakes are in.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from workers.reference import STEP_TAG, synthetic
from workers.reference.labels import Row, drill_row, layout, row, steps_of
from workers.reference.network import Reasoner, RewardModel
from workers.reference.optimise import Limit, batches, learn
from workers.reference.slips import wrong_attempt
from workers.reference.synthetic import Kind, Query, first_wrong_step

_BATCH_TOKENS = 2048
_RATE = 0.6
_TAG_WEIGHT = 4.0
_LANGUAGE_WEIGHT = 0.3
_DRILLS = (0.8, 0.35)
"""The share of rows that are drills, at the start and from a quarter of training on."""
_SOLUTIONS = 4
"""The solutions of one query in a row."""
_WHOLE = 0.2
"""The share of wrong solutions that go on to their ends."""
_CHUNK = 512
_KINDS: dict[Kind, float] = {"hard": 0.6, "practice": 0.25, "compound": 0.15}


@dataclass(frozen=True, slots=True)
class Sampled:
    """A query and what the reasoner wrote to it."""

    query: Query
    texts: Sequence[str]


def practice_queries(count: int, seed: int) -> list[Query]:
    """Train queries of the kinds the PRM should know, half of the compound ones in parts."""
    rng = random.Random(f"prm-{seed}")
    drawn: list[Query] = []
    for kind, share in _KINDS.items():
        for query in synthetic.queries("train", kind, int(count * share), 500_000_000 + seed):
            whole = not query.plan or rng.random() < 0.4
            drawn.append(query if whole else rng.choice(synthetic.parts(query)))
    rng.shuffle(drawn)
    return drawn


def train(
    tokenizer: PreTrainedTokenizerFast,
    network: RewardModel,
    attempts: Sequence[Sampled],
    limit: Limit,
    seed: int,
    device: torch.device,
    save: Callable[[Reasoner], None],
) -> None:
    """Trains the network, grown from the reasoner, up to the limit."""
    torch.manual_seed(seed)
    network.to(device)
    tag = cast(int, tokenizer.convert_tokens_to_ids(STEP_TAG))
    rows = batches(_rows(tokenizer, attempts, limit, seed), _BATCH_TOKENS, seed)
    learn(network, rows, lambda batch: _losses(network, batch, tag, device), limit, save, _RATE)


def _rows(
    tokenizer: PreTrainedTokenizerFast, attempts: Sequence[Sampled], limit: Limit, seed: int
) -> Iterator[Row]:
    """Rows without end: drills, the reasoner's attempts in turn, and made-up slips."""
    rng = random.Random(f"rows-{seed}")
    known = list(attempts)
    chunk = 0
    while True:
        chunk += 1
        fresh = practice_queries(_CHUNK, seed * 1_000_003 + chunk)
        rng.shuffle(known)
        mixed = [*known[:_CHUNK], *(Sampled(query, ()) for query in fresh)]
        rng.shuffle(mixed)
        for each in mixed:
            drills = _DRILLS[limit.progress > 0.25]
            while rng.random() < drills:
                yield drill_row(tokenizer, rng)
            yield row(tokenizer, each.query, _solutions(each, rng))


def _solutions(sampled: Sampled, rng: random.Random) -> list[str]:
    """Different solutions of one query: the right one, and wrong ones, sampled or made up.

    Most wrong ones end soon after their first wrong step, since all after it is as wrong.
    """
    wrong = [text for text in sampled.texts if not synthetic.right(sampled.query, text)]
    slips = ("\n".join(wrong_attempt(sampled.query, rng)) for _ in range(_SOLUTIONS))
    wrong = list(dict.fromkeys(text for text in (*wrong, *slips) if text.strip()))
    rights = [text for text in sampled.texts if synthetic.right(sampled.query, text)]
    chosen = [rng.choice((sampled.query.solution, *rights))]
    for text in wrong[: _SOLUTIONS - 1]:
        steps = steps_of(text)
        first = first_wrong_step(sampled.query, steps)
        if first is not None and rng.random() > _WHOLE:
            steps = steps[: first + 1 + rng.randint(0, 1)]
        chosen.append("\n".join(steps))
    rng.shuffle(chosen)
    return chosen


def _losses(
    network: RewardModel, batch: Sequence[Row], tag: int, device: torch.device
) -> dict[str, Tensor]:
    """Loss of the labels, step tags weighing more, and of the language of right solutions."""
    ids, positions, sees = (each.to(device) for each in layout(batch, 0))
    places = torch.tensor(
        [
            (line, place, label)
            for line, each in enumerate(batch)
            for place, label in enumerate(each.labels, each.starts[0])
        ],
        device=device,
    )
    spoken = torch.tensor(_spoken(batch), device=device).reshape(-1, 3)
    with torch.autocast(device.type, torch.bfloat16):
        between, last = network.read(ids, positions, sees)
        verdicts = network.score(last[places[:, 0], places[:, 1]])
        words = network.logits(between[spoken[:, 0], spoken[:, 1]])
    weights = 1 + (_TAG_WEIGHT - 1) * (ids[places[:, 0], places[:, 1]] == tag)
    each = nn.functional.cross_entropy(verdicts.float(), places[:, 2], reduction="none")
    labels = (each * weights).sum() / weights.sum()
    language = nn.functional.cross_entropy(words.float(), spoken[:, 2])
    return {"labels": labels, "language": _LANGUAGE_WEIGHT * language}


def _spoken(batch: Sequence[Row]) -> list[tuple[int, int, int]]:
    """Row, place and next token wherever a right solution says what comes next."""
    found = []
    for line, each in enumerate(batch):
        ends = (*each.starts[1:], len(each.ids))
        for start, end, right in zip(each.starts, ends, each.learn, strict=True):
            if right:
                found.append((line, each.starts[0] - 1, each.ids[start]))
                found += [(line, at, each.ids[at + 1]) for at in range(start, end - 1)]
    return found
