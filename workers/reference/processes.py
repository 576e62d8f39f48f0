"""Training in several processes of one thread each, which agree on every update.

On a CPU that others use too this is much faster than one process of several threads: there all
threads wait for the slowest after every operation, here only once an update.
"""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, multiprocessing


def run(count: int, work: Callable[[int], None]) -> None:
    """Calls `work` with its rank in `count` processes, or here where one is enough.

    Raises what a process raises.
    """
    if count == 1:
        work(0)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder, 'meeting')}"
        multiprocessing.start_processes(  # type: ignore[attr-defined,no-untyped-call]
            _start, (count, meeting, work), nprocs=count, start_method="fork"
        )


def _start(rank: int, count: int, meeting: str, work: Callable[[int], None]) -> None:
    torch.set_num_threads(1)
    if rank:
        logging.disable(logging.INFO)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    try:
        work(rank)
    finally:
        distributed.destroy_process_group()
