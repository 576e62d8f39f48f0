"""Trains the reference models and measures them: python -m workers.reference.train --help.

Done once, by hand. On two CPU cores the reasoner takes about an hour and the PRM another; on a
GPU, minutes. Each writes its directory again every few minutes while it learns, so nothing is
lost when it is stopped. `--examples` makes a run repeatable; `--minutes` makes it end in time.
"""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from workers.reference import PRM, cards, learn_prm, learn_reasoner, network, processes, tokens
from workers.reference.attempts import sample_attempts
from workers.reference.measure import measure
from workers.reference.network import Reasoner, RewardModel
from workers.reference.optimise import Limit
from workers.reference.sampling import Sampling

_MINUTES = 60.0
_ATTEMPTS = 1000
_REPLIES = 4
_HEAT = 0.9
_RATE_AGAIN = 0.5


def main() -> None:
    """Does what the command line asks for."""
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    tasks: dict[str, Callable[[argparse.Namespace], None]] = {
        "reasoner": train_reasoner,
        "prm": train_prm,
        "measure": measure_both,
    }
    for name, task in tasks.items():
        if options.what in (name, "all"):
            task(options)


def train_reasoner(options: argparse.Namespace) -> None:
    """Writes OUT/reasoner, made from nothing or gone on with."""
    folder = options.out / "reasoner"
    rate = _RATE_AGAIN if options.more else 1.0

    def work(rank: int) -> None:
        build = learn_reasoner.build_tokenizer
        tokenizer = tokens.load(folder) if options.more else build(options.seed)
        torch.manual_seed(options.seed)
        reasoner = Reasoner(tokenizer)
        if options.more:
            network.load(reasoner, folder)
        save = _saver(folder, tokenizer, rank)
        seed, device = _seed(options, rank), _device(options)
        learn_reasoner.train(tokenizer, reasoner, _limit(options), seed, device, save, rate)
        save(reasoner)

    processes.run(options.processes, work)


def train_prm(options: argparse.Namespace) -> None:
    """Writes OUT/prm; the attempts of OUT/reasoner that it learns from stay in OUT/attempts.jsonl.

    It grows from OUT/reasoner, or from a reasoner trained for longer.
    """
    kept = options.out / "attempts.jsonl"
    folder = options.out / "reasoner"
    how = Sampling(_REPLIES, _HEAT)
    count = min(_ATTEMPTS, options.examples or _ATTEMPTS)
    attempts = sample_attempts(folder, count, how, options.seed, kept)

    def work(rank: int) -> None:
        tokenizer = tokens.load(folder)
        reasoner = Reasoner(tokenizer)
        network.load(reasoner, options.base or folder)
        prm = RewardModel(tokenizer)
        prm.grow_from(reasoner)
        save = _saver(options.out / "prm", tokenizer, rank)
        seed = _seed(options, rank)
        learn_prm.train(tokenizer, prm, attempts, _limit(options), seed, _device(options), save)
        save(prm)

    processes.run(options.processes, work)


def measure_both(options: argparse.Namespace) -> None:
    """Measures OUT/reasoner and OUT/prm on test queries, and writes their cards."""
    reasoner, prm = options.out / "reasoner", options.out / "prm"
    found = measure(reasoner, prm, options.queries, options.seed)
    how = (
        f"{options.queries} test queries of each kind, seed {options.seed}, temperature 0.8,\n"
        "16 candidates; shares of queries answered rightly."
    )
    cards.write_cards(reasoner, prm, found, how)
    logging.getLogger(__name__).info("\n%s", cards.figures_table(found, how))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("reasoner", "prm", "measure", "all"))
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--minutes", type=float, help=f"of training, each ({_MINUTES:.0f})")
    parser.add_argument("--examples", type=int, help="of training, instead of minutes")
    parser.add_argument(
        "--more", action="store_true", help="train the model that is there some more"
    )
    parser.add_argument("--base", type=Path, help="the reasoner that the PRM grows from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=300, help="to measure on, of each kind")
    parser.add_argument("--out", type=Path, default=PRM.parent)
    parser.add_argument(
        "--processes", type=int, help="that train together (all cores on a CPU, one on a GPU)"
    )
    options = parser.parse_args()
    if options.processes is None:
        options.processes = (os.cpu_count() or 1) if _device(options).type == "cpu" else 1
    return options


def _device(options: argparse.Namespace) -> torch.device:
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _limit(options: argparse.Namespace) -> Limit:
    if options.examples is not None:
        return Limit(examples=max(1, options.examples // options.processes))
    return Limit(minutes=options.minutes or _MINUTES)


def _seed(options: argparse.Namespace, rank: int) -> int:
    """Each process draws its own examples."""
    return int(options.seed) * 1000 + rank


def _saver(
    folder: Path, tokenizer: PreTrainedTokenizerFast, rank: int
) -> Callable[[Reasoner], None]:
    def save(trained: Reasoner) -> None:
        if rank == 0:
            network.save(trained, tokenizer, folder)

    return save


if __name__ == "__main__":
    main()
