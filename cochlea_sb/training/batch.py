"""A batch of pairs, before and after its deformation: the only place that knows how the crops of a batch are laid out.

`cochlea_sb.training.pairs` draws a `PairBatch`, `deform` turns it into a `DeformedBatch`, and the Brain encodes that.
Miners and losses are given its groups and its positives.

Axes: B pairs, T frames of a crop, M mel bands. The 2 B crops of a batch are the anchors, then their positives.
"""

from typing import Any, NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import energies_from_log_mel, log_mel_from_energies


class PairBatch(NamedTuple):
    """Pairs of crops as they were drawn.

    anchors, positives : torch.Tensor [B, T, M], float16, log-mel
    groups : torch.Tensor [B], int64
        What both crops of a pair share: the number of their sound, or of its label or source (``pair_by``). Crops of
        one group are never each other's negatives.
    seed : int
        All random draws of the step follow from it; see `generator`.
    """

    anchors: torch.Tensor
    positives: torch.Tensor
    groups: torch.Tensor
    seed: int

    @property
    def crops(self) -> torch.Tensor:
        """torch.Tensor [2 B, T, M]: the anchors, then the positives."""
        return torch.cat([self.anchors, self.positives])

    def generator(self, stream: int = 0) -> torch.Generator:
        """A generator on the device of the batch. Stream 0 is for the deformation, stream 1 for the miner."""
        return torch.Generator(self.anchors.device).manual_seed(self.seed + stream)


class DeformedBatch(NamedTuple):
    """The crops that the encoder sees.

    crops : torch.Tensor [2 B, T, M], float32, log-mel
        The anchors, then the positives.
    groups : torch.Tensor [2 B, 2], int64
        All groups that a crop may contain: its own, and that of the sound mixed into it.
    positive_of : torch.Tensor [2 B], int64
        The row of each crop's positive: the other crop of its pair.
    """

    crops: torch.Tensor
    groups: torch.Tensor
    positive_of: torch.Tensor


def anchors_and_positives(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split anything that has one row for each of the 2 B crops: [2 B, ...] into two of [B, ...]."""
    anchors, positives = rows.chunk(2)
    return anchors, positives


@torch.no_grad()
def deform(batch: PairBatch, deformation: Deformation[Any], floor: float, deform_anchors: bool = True) -> DeformedBatch:
    """Deform the positives of a batch, and its anchors unless they should stay as they are.

    Arguments
    ---------
    batch : PairBatch
    deformation : Deformation
        Every crop gets other random values.
    floor : float
        Energy that the front end adds before the logarithm: ``LogMel.floor``.
    deform_anchors : bool

    Returns
    -------
    DeformedBatch
    """
    n_pairs = len(batch.groups)
    first = 0 if deform_anchors else n_pairs  # the first crop to deform
    shift = mixing_shift(n_pairs, batch.seed)
    with torch.autocast(batch.anchors.device.type, enabled=False):
        energies = energies_from_log_mel(batch.crops, floor)
        others = energies.roll(shift, 0)
        deformed = deformation(energies[first:], others[first:], batch.generator())
        crops = log_mel_from_energies(deformed, floor)
    groups = torch.cat([batch.groups, batch.groups])
    mixed_in = groups.roll(shift)
    if first:
        crops = torch.cat([batch.anchors.float(), crops])
        mixed_in[:first] = groups[:first]
    rows = torch.arange(2 * n_pairs, device=groups.device)
    return DeformedBatch(crops, torch.stack([groups, mixed_in], dim=1), rows.roll(n_pairs))


def mixing_shift(n_pairs: int, seed: int) -> int:
    """By how many rows to roll the 2 B crops so that each meets a crop of another pair, to be mixed with.

    A roll is enough, because the order of a batch is random. A roll by B would mix the two crops of each pair.
    """
    shift = 1 + seed % max(1, 2 * n_pairs - 2)
    return shift + 1 if n_pairs > 1 and shift >= n_pairs else shift
