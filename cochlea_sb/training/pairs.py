"""Batches of (anchor, neighbour) crops: temporal proximity as index arithmetic on the device.

Jansen et al. 2017, section 3.5: what sounds within a few seconds of each other is likely to be alike.

Axes: N sounds, W windows of the corpus, B batch, T frames of a crop, M mel bands.
"""

from typing import NamedTuple

import numpy as np
import torch

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.errors import UserError
from cochlea_sb.features import audibility


class Pairs(NamedTuple):
    """One batch.

    anchors, neighbours : torch.Tensor [batch, frames, mels], float16
    groups : torch.Tensor [batch], int64, what both crops of a pair share: their sound, unless there are other groups
    seed : int, for the draws that the deformations make
    """

    anchors: torch.Tensor
    neighbours: torch.Tensor
    groups: torch.Tensor
    seed: int


class PairBatches(torch.utils.data.Dataset):
    """An epoch of batches; item ``step`` depends on nothing but the seed, the epoch and the step.

    So a run that was interrupted goes on with the very batches it would have seen. Meant for a ``DataLoader`` with
    ``batch_size=None`` and no workers: a batch is a gather on the device, not work for another process.

    Windows are drawn in proportion to the duration of their sounds, capped so that one long recording cannot drown
    the rest, and seldom where they are nearly silent. The neighbour is another window of the same sound, drawn
    likewise. Both are then moved by up to half a hop, so that every frame can be the first of a crop.

    Arguments
    ---------
    bank : FrameBank
    batch_size : int
        Pairs in a batch: at most as many as there are sounds, unless there are groups.
    steps : int
        Batches in an epoch.
    seed : int
    crop_frames : int
        Length of the crops.
    window_frames : int
        How many frames of a crop are certain to lie within the sound, where it is long enough.
    neighbour_seconds : float
        Largest distance of an anchor's window and its neighbour's; at 0 they are the same crop.
    neighbour_share : float in [0, 1]
        Share of the pairs, the last ones of a batch, that are neighbours; the others are the same crop twice.
    groups : list of int, [sounds], ascending, optional
        What an anchor and its neighbour share: numbers of their labels make training supervised. The neighbour is
        then any window of the anchor's group.
    max_seconds : float
        Duration at which a sound stops gaining weight.
    quiet_weight : float in [0, 1]
        Weight of a window that is 20 dB or more below the loudest of its sound; see `cochlea_sb.features.audibility`.
    hop_seconds : float
        Of the front end.
    band : float in (0, 1]
        Share of the corpus, by weight, that a batch is drawn from: a stretch of sounds that follow each other. If they
        are in the order of their lengths, those of a batch are of like length.
    device : str, optional
        Where the batches should lie; by default where the bank's frames do.
    rank : int
        Of the process in distributed training: each draws batches of its own.
    """

    def __init__(
        self,
        bank: FrameBank,
        batch_size,
        steps,
        seed=0,
        *,
        crop_frames=144,
        window_frames=96,
        neighbour_seconds=10.0,
        neighbour_share=1.0,
        groups=None,
        max_seconds=60.0,
        quiet_weight=0.02,
        hop_seconds=0.01,
        band=1.0,
        device=None,
        rank=0,
    ):
        ids = torch.arange(len(bank)) if groups is None else torch.tensor(groups)
        if len(ids) != len(bank) or (ids.diff() < 0).any():
            raise UserError(f"groups has {len(ids)} numbers for {len(bank)} sounds: expected one for each, ascending.")
        if len(bank) < 2:
            raise UserError("The corpus holds one sound: it can't be told from others; add at least one more file.")
        if ids[0] == ids[-1]:
            raise UserError(f"All {len(bank)} sounds share one label or source: a batch needs others.")
        if batch_size < 2 or (groups is None and batch_size > len(bank)):
            raise UserError(
                f"batch_size is {batch_size} and the corpus has {len(bank)} sounds to train on: expected 2 to "
                f"{len(bank)}, so that a batch has negatives; use --batch_size {len(bank)} or less, or more sounds."
            )
        self.bank, self.batch_size, self.steps, self.seed, self.rank = bank, batch_size, steps, seed, rank
        self.crop_frames, self.window_frames = crop_frames, window_frames
        self.device = torch.device(device) if device else bank.device
        self.band = band
        self.hop = window_frames // 2
        self.reach = round(neighbour_seconds / hop_seconds / self.hop)  # in windows
        self.n_same = batch_size - (int(neighbour_share * batch_size) if neighbour_seconds else 0)
        self.epoch = 0
        self.window_sounds, self.window_starts = bank.windows(window_frames, self.hop)
        counts = torch.bincount(self.window_sounds, minlength=len(bank))
        self.groups = ids.to(bank.device)  # [N]
        here = torch.arange(len(self.window_sounds), device=bank.device)
        window_groups = self.groups[self.window_sounds]
        sizes = torch.bincount(window_groups)
        last = sizes.cumsum(0)[window_groups]  # one past the last window of the window's group
        if groups is not None:
            self.reach = len(here)
        self.lowest = torch.maximum(here - self.reach, last - sizes[window_groups])
        self.highest = torch.minimum(here + self.reach, last - 1)
        seconds = (bank.lengths.clamp(min=window_frames) * hop_seconds).clamp(max=max_seconds)
        audible = audibility(*bank.peaks(self.window_sounds, self.window_starts, window_frames), quiet_weight)
        weights = (seconds / counts)[self.window_sounds].double() * audible
        self.cumulative = torch.cat([weights.new_zeros(1), weights.cumsum(0)])  # [W + 1]

    def __len__(self):
        return self.steps

    def set_epoch(self, epoch):
        """Called by the Brain at the start of an epoch."""
        self.epoch = epoch

    def __getitem__(self, step):
        """Draw batch ``step`` of the current epoch; see `Pairs`."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step is {step}: expected 0 to {self.steps - 1}.")
        entropy = [self.seed, self.rank, self.epoch, step]
        draw_seed, deform_seed = np.random.SeedSequence(entropy).generate_state(2).tolist()
        generator = torch.Generator(self.bank.device).manual_seed(draw_seed)
        anchors, neighbours = self.draw_windows(generator)
        anchor_starts, neighbour_starts = self.jitter(anchors, generator), self.jitter(neighbours, generator)
        neighbours[: self.n_same] = anchors[: self.n_same]
        neighbour_starts[: self.n_same] = anchor_starts[: self.n_same]
        anchor_crops = self.bank.crops(self.window_sounds[anchors], anchor_starts, self.crop_frames)
        neighbour_crops = self.bank.crops(self.window_sounds[neighbours], neighbour_starts, self.crop_frames)
        batch = anchor_crops, neighbour_crops, self.groups[self.window_sounds[anchors]]
        return Pairs(*(tensor.to(self.device, non_blocking=True) for tensor in batch), deform_seed)

    def draw_windows(self, generator):
        """Two windows of one sound, or of one group, for each pair, by inverting the cumulative weights.

        Returns
        -------
        anchors, neighbours : torch.Tensor [batch], int64
            Rows of the window table.
        """
        share = torch.rand(2, self.batch_size, generator=generator, device=self.bank.device, dtype=torch.float64)
        if self.band < 1:
            first = torch.rand((), generator=generator, device=self.bank.device, dtype=torch.float64)
            share[0] = (1 - self.band) * first + self.band * share[0]
        anchors = self.pick(share[0] * self.cumulative[-1])
        low, high = self.cumulative[self.lowest[anchors]], self.cumulative[self.highest[anchors] + 1]
        neighbours = self.pick(low + share[1] * (high - low))
        return anchors, torch.clamp(neighbours, self.lowest[anchors], self.highest[anchors])

    def pick(self, mass):
        """The window in whose stretch of the cumulative weights ``mass`` falls."""
        return torch.searchsorted(self.cumulative, mass, right=True).sub_(1).clamp_(0, len(self.window_sounds) - 1)

    def jitter(self, windows, generator):
        """First frames of crops: the windows' own, moved by up to half a hop, inside the sound."""
        moved = torch.randint(
            -(self.hop // 2), self.hop // 2 + 1, windows.shape, generator=generator, device=self.bank.device
        )
        latest = (self.bank.lengths[self.window_sounds[windows]] - self.window_frames).clamp(min=0)
        return torch.minimum((self.window_starts[windows] + moved).clamp(min=0), latest)
