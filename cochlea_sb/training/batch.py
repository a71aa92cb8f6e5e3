"""A batch of pairs, before and after its deformation.

`cochlea_sb.training.pairs` draws a `PairBatch`. `deform` turns it into a `DeformedBatch`, which the Brain encodes. Only
this file defines the order of the 2 B crops of a batch: first the anchors, then their positives.

Axes: B pairs, T frames of a crop, M mel bands.
"""

from typing import Any, NamedTuple

import torch

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import energies_from_log_mel, log_mel_from_energies
from cochlea_sb.training.distributed import ALL, Share, summed


class PairBatch(NamedTuple):
    """Pairs of crops before their deformation: log-mel frames, float16 [B, T, M].

    ``groups``, int64 [B], is a number for the sound, label or source that both crops of a pair share. Crops of the
    same group are never negatives of each other. ``seed`` is the seed of all random draws of the training step.
    """

    anchors: torch.Tensor
    positives: torch.Tensor
    groups: torch.Tensor
    seed: int

    @property
    def crops(self) -> torch.Tensor:
        """torch.Tensor [2 B, T, M]: the anchors, then the positives."""
        return torch.cat([self.anchors, self.positives])

    def on(self, device: torch.device | str) -> "PairBatch":
        """Copy the batch to a device. In distributed training, this adds up the crops of all processes."""
        anchors, positives, groups = (part.to(device, non_blocking=True) for part in self[:3])
        return PairBatch(summed(anchors), summed(positives), groups, self.seed)

    def generator(self, stream: int = 0) -> torch.Generator:
        """Make a generator on the device of the batch. Stream 0 is for the deformation, stream 1 for the miner."""
        return torch.Generator(self.anchors.device).manual_seed(self.seed + stream)


class DeformedBatch(NamedTuple):
    """The crops that the encoder reads: log-mel frames, float32 [2 B, T, M].

    ``groups``, int64 [2 B, 2], holds the group of each crop, and the group of the crop that may be mixed into it.
    ``positive_of``, int64 [2 B], is the row of the other crop of the pair. In distributed training, ``crops`` are only
    the rows of this process, and ``groups`` and ``positive_of`` describe all rows.
    """

    crops: torch.Tensor
    groups: torch.Tensor
    positive_of: torch.Tensor


def anchors_and_positives(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a tensor [2 B, ...] into the rows of the anchors and the rows of the positives, each [B, ...]."""
    anchors, positives = rows.chunk(2)
    return anchors, positives


@torch.no_grad()
def deform(
    batch: PairBatch,
    deformation: Deformation[Any],
    floor: float,
    deform_anchors: bool = True,
    share: Share = ALL,
) -> DeformedBatch:
    """Deform the positives of a batch and, if ``deform_anchors`` is True, its anchors.

    The deformation draws new random values for each crop. ``floor`` is the floor of the front end, ``LogMel.floor``.
    Only the rows of ``share`` are deformed; the result for a row does not depend on the number of shares, which must
    divide the number of pairs.
    """
    n_pairs = len(batch.groups)
    first = 0 if deform_anchors else n_pairs
    shift = mixing_shift(n_pairs, batch.seed)
    with torch.autocast(batch.anchors.device.type, enabled=False):
        crops = batch.crops
        own, others = (energies_from_log_mel(part[first:][share.rows], floor) for part in (crops, crops.roll(shift, 0)))
        draw = deformation.take(deformation.draw(crops[first:], batch.generator()), *share)
        crops = log_mel_from_energies(deformation.deform(own, draw, others), floor)
    groups = torch.cat([batch.groups, batch.groups])
    mixed_in = groups.roll(shift)
    if first:
        crops = torch.cat([batch.anchors[share.rows].float(), crops])
        mixed_in[:first] = groups[:first]
    rows = torch.arange(2 * n_pairs, device=groups.device)
    return DeformedBatch(crops, torch.stack([groups, mixed_in], dim=1), rows.roll(n_pairs))


def mixing_shift(n_pairs: int, seed: int) -> int:
    """Number of rows by which to roll the 2 B crops, so that each row gets a crop of another pair.

    Only a batch of one pair has no other pair: each of its rows then gets the other crop of the same pair.
    """
    shift = 1 + seed % max(1, 2 * n_pairs - 2)
    return shift + 1 if n_pairs > 1 and shift >= n_pairs else shift
