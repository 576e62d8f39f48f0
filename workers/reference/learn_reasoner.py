"""Training of the reasoner: next-token loss on the replies of its lessons."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from workers.reference import tokens
from workers.reference.lessons import lessons
from workers.reference.network import Reasoner
from workers.reference.optimise import Limit, batches, learn, padded

_BATCH_TOKENS = 5120
_TOKENIZER_LESSONS = 12_000
_SAMPLED_AT = 0.8


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, of which those from `learn_from` on are learnt."""

    ids: Sequence[int]
    learn_from: int


def build_tokenizer(seed: int, count: int = _TOKENIZER_LESSONS) -> PreTrainedTokenizerFast:
    """A tokenizer made for the lessons of this seed."""
    return tokens.build(
        text
        for lesson in itertools.islice(lessons(seed), count)
        for text in (*(message["content"] for message in lesson.messages), lesson.reply)
    )


def train(
    tokenizer: PreTrainedTokenizerFast,
    network: Reasoner,
    limit: Limit,
    seed: int,
    device: torch.device,
    save: Callable[[Reasoner], None],
    rate: float = 1.0,
) -> None:
    """Trains the network up to the limit; `save` is called now and then."""
    network.to(device)
    examples = batches(_examples(tokenizer, seed), _BATCH_TOKENS, seed)
    learn(
        network, examples, lambda batch: {"loss": _loss(network, batch, device)}, limit, save, rate
    )


def _examples(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Example]:
    for lesson in lessons(seed):
        yield Example(*tokens.encode_lesson(tokenizer, lesson))


def _loss(network: Reasoner, batch: Sequence[Example], device: torch.device) -> Tensor:
    """Mean cross-entropy of the tokens learnt in the batch, at the temperature of sampling.

    So its samples are as sure as it has reason to be. Learnt at 1 and sampled at 0.8 they would be
    surer, and too alike for a vote to gain much from them.
    """
    ids = padded([example.ids for example in batch], 0).to(device)
    learnt = torch.zeros(ids.shape, dtype=torch.bool)
    for row, example in enumerate(batch):
        learnt[row, example.learn_from - 1 : len(example.ids) - 1] = True
    rows, places = learnt.to(device).nonzero(as_tuple=True)
    with torch.autocast(device.type, torch.bfloat16):
        logits = network.logits(network(ids)[rows, places])
    return nn.functional.cross_entropy(logits.float() / _SAMPLED_AT, ids[rows, places + 1])
