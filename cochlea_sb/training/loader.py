"""Load batches of pairs. Frames on the disk are read ahead by other processes."""

import os

import torch
from speechbrain.dataio.dataloader import SaveableDataLoader

from cochlea_sb.machine import n_cores
from cochlea_sb.training.pairs import MixedBatches, PairBatches

MOST_READERS = 4


def make_loader(batches: PairBatches | MixedBatches, device: str) -> SaveableDataLoader:
    """Return a loader of the batches, which checkpoints can store.

    If the frames are on the disk, up to `MOST_READERS` processes read the next batches while ``device`` computes.
    """
    readers = min(MOST_READERS, n_cores()) if batches.bank.on_disk and hasattr(os, "fork") else 0
    if not readers:
        return SaveableDataLoader(batches, batch_size=None)
    # A forked process shares the tables of the batches and the open file; a new one would get a copy of all frames.
    pin_memory = torch.device(device).type == "cuda"
    return SaveableDataLoader(
        batches, batch_size=None, num_workers=readers, pin_memory=pin_memory, multiprocessing_context="fork"
    )
