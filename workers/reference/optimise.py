"""How both networks are trained: batches of one length, Muon and AdamW, one rate schedule.

Muon (Jordan et al. 2024) takes the matrices inside the layers, AdamW the embeddings, norms,
biases and heads. Learning rates rise in a short warm-up and fall to nothing along a cosine. A
limit is a time or a number of examples, whichever the caller names.
"""

import itertools
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed, nn

Item = TypeVar("Item", bound="Sized")
Network = TypeVar("Network", bound=nn.Module)
_POOL = 3072
_MUON_RATE = 1e-2
_ADAM_RATE = 3e-3
_WARM_UP = 0.03
_LAST = 0.02
_REPORT_SECONDS = 20.0
_SAVE_SECONDS = 240.0

log = logging.getLogger(__name__)


class Sized(Protocol):
    """What can be put into a batch."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""


@dataclass(slots=True)
class Limit:
    """When training ends: after so many minutes, or after so many examples."""

    minutes: float | None = None
    examples: int | None = None
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        if self.examples is not None:
            return min(1.0, self.done / self.examples)
        if self.minutes is None:
            raise ValueError("A limit needs minutes or examples.")
        return min(1.0, self.seconds / (60 * self.minutes))

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float:
        """Seconds to the end at the pace so far."""
        return self.seconds * (1 / max(self.progress, 1e-6) - 1)


class Optimiser:
    """Muon and AdamW stepping together at one point of the schedule."""

    def __init__(self, network: nn.Module, rate: float = 1.0) -> None:
        inner: list[nn.Parameter] = []
        outer: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            matrix = parameter.ndim == 2 and ".layers." in name
            (inner if matrix else outer).append(parameter)
        self.parameters = inner + outer
        self._rates = (_MUON_RATE * rate, _ADAM_RATE * rate)
        self._optimisers = (
            torch.optim.Muon(inner, lr=self._rates[0], weight_decay=0.01, momentum=0.95),
            torch.optim.AdamW(outer, lr=self._rates[1], weight_decay=0.0, betas=(0.9, 0.95)),
        )

    def step(self, progress: float) -> float:
        """One update with what the gradients say; clears them.

        Several processes training together share gradients and progress, so that their weights
        stay the same; the progress they agree on is returned.
        """
        progress = self._agree(progress)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        warm = min(1.0, (progress + 1e-4) / _WARM_UP)
        scale = warm * (_LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * progress)))
        for optimiser, rate in zip(self._optimisers, self._rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * scale
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return progress

    def _agree(self, progress: float) -> float:
        """Averages gradients and progress over the processes, one message for all of it."""
        if not distributed.is_initialized():
            return progress
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), gradients[0].new_tensor([progress])])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for gradient, mean in zip(
            gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))
        return float(flat[-1])


def learn(
    network: Network,
    learnt: Iterable[Sequence[Sized]],
    losses: Callable[[Sequence[Any]], Mapping[str, Tensor]],
    limit: Limit,
    save: Callable[[Network], None],
    rate: float = 1.0,
) -> None:
    """Go through batches up to the limit, lowering the sum of their losses.

    The log hears of the losses by their names, and `save` is called now and then.
    """
    optimiser = Optimiser(network, rate)
    averages: dict[str, float] = {}
    reported, saved, seen = 0.0, 0.0, 0
    for batch in learnt:
        found = losses(batch)
        torch.autograd.backward(torch.stack([*found.values()]).sum())
        progress = optimiser.step(limit.progress)
        limit.done += len(batch)
        seen += sum(len(each.ids) for each in batch)
        for name, loss in found.items():
            now = loss.item()
            averages[name] = 0.98 * averages.get(name, now) + 0.02 * now
        if limit.seconds - reported > _REPORT_SECONDS:
            reported = limit.seconds
            told = "  ".join(f"{name} {value:.4f}" for name, value in averages.items())
            log.info(
                "%3.0f%%  %s  %d examples  %.0f tokens/s  %.0f s left",
                100 * limit.progress, told, limit.done, seen / limit.seconds, limit.seconds_left,
            )  # fmt: skip
        if limit.seconds - saved > _SAVE_SECONDS:
            saved = limit.seconds
            save(network)
        if progress >= 1:
            break


def batches(items: Iterator[Item], budget: int, seed: int) -> Iterator[list[Item]]:
    """Batches of items of similar length, at most `budget` tokens each, padding included.

    Takes a pool of items at a time, sorts it by length, cuts it, and shuffles the batches.
    """
    rng = random.Random(f"batches-{seed}")
    while pool := sorted(itertools.islice(items, _POOL), key=lambda item: len(item.ids)):
        cut: list[list[Item]] = [[]]
        for item in pool:
            if (len(cut[-1]) + 1) * len(item.ids) > budget and cut[-1]:
                cut.append([])
            cut[-1].append(item)
        rng.shuffle(cut)
        yield from cut


def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """One tensor [rows, longest] of rows filled up on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
