"""Draw pairs of crops, from one sound or from one group of sounds, by index arithmetic on the device.

Temporal proximity (Jansen et al. 2017, section 3): crops within a few seconds of each other are likely to be alike.

Axes: N sounds, W windows of the corpus, B pairs, T frames of a crop, M mel bands.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch

from cochlea_sb.augment.combined import Composition, OneKindPerExample
from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.temporal_proximity import TemporalProximity
from cochlea_sb.data.corpus import column
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.errors import UserError
from cochlea_sb.features import audibility
from cochlea_sb.training.batch import PairBatch


class PairBatches(torch.utils.data.Dataset[PairBatch]):
    """An epoch of batches. Batch ``step`` depends only on the seed, the rank, the epoch and the step.

    An interrupted run therefore goes on with the batches that it would have seen. Give the data set to a
    ``DataLoader`` with ``batch_size=None`` and no workers: drawing a batch only indexes tensors on the device.

    The windows of the anchors are drawn at random. A long sound is drawn more often, in proportion to its duration up
    to ``max_seconds``. Windows much quieter than the loudest of their sound are seldom drawn (``quiet_weight``). The
    positive is a crop of a window nearby, or the anchor's own crop: see `in_proximity`. A crop begins up to half a hop
    before or after its window, so that any frame can be the first.

    Arguments
    ---------
    bank : FrameBank
    batch_size : int
        Pairs in a batch. Without groups, at most the number of sounds.
    steps : int
        Batches in an epoch.
    seed : int
    deformation : Deformation
        Where it contains `TemporalProximity`, the positive is another crop than the anchor: see `in_proximity`.
    crop_frames : int
        Length of the crops.
    window_frames : int
        Length of the windows. The first ``window_frames`` of a crop lie within the sound, if the sound is that long.
    proximity_seconds : float, above 0
        Largest distance between the windows of an anchor and its positive. Has no effect where there are groups.
    groups : list of int, [sounds], ascending, optional
        A number for each sound. The positive is then any window of the anchor's group. If the numbers stand for
        labels, training is supervised.
    max_seconds : float
        A longer sound is drawn as often as one of this duration.
    quiet_weight : float in [0, 1]
        Weight of a window that is 20 dB or more below the loudest of its sound; see `cochlea_sb.features.audibility`.
    hop_seconds : float
        Hop of the front end.
    band : float in (0, 1]
        Share of the corpus, by weight, that the anchors of one batch are drawn from. It consists of consecutive sounds
        of the bank. If the bank is sorted by length, the sounds of a batch then have similar lengths.
    device : str, optional
        Device of the batches; by default that of the bank.
    rank : int
        Rank of this process in distributed training.
    """

    def __init__(
        self,
        bank: FrameBank,
        batch_size: int,
        steps: int,
        seed: int = 0,
        *,
        deformation: Deformation[Any] | None = None,
        crop_frames: int = 144,
        window_frames: int = 96,
        proximity_seconds: float = 10.0,
        groups: Sequence[int] | None = None,
        max_seconds: float = 60.0,
        quiet_weight: float = 0.02,
        hop_seconds: float = 0.01,
        band: float = 1.0,
        device: str | None = None,
        rank: int = 0,
    ) -> None:
        ids = torch.arange(len(bank)) if groups is None else torch.tensor(groups)
        if len(ids) != len(bank) or (ids.diff() < 0).any():
            raise UserError(f"groups has {len(ids)} numbers for {len(bank)} sounds: expected one for each, ascending.")
        if len(bank) < 2:
            raise UserError("The corpus holds one sound: training compares sounds, so add at least one more file.")
        if ids[0] == ids[-1]:
            raise UserError(f"All {len(bank)} sounds share one label or source: training needs at least two.")
        if batch_size < 2 or (groups is None and batch_size > len(bank)):
            raise UserError(
                f"batch_size is {batch_size} and the corpus has {len(bank)} sounds to train on: expected 2 to "
                f"{len(bank)}, so that a batch has negatives; use --batch_size {len(bank)} or less, or more sounds."
            )
        if proximity_seconds <= 0:
            raise UserError(
                f"proximity_seconds is {proximity_seconds}: expected more than 0, such as 10; to make the positive the "
                "same crop as the anchor, leave TemporalProximity out of the yaml's deformation."
            )
        self.bank, self.batch_size, self.steps, self.seed, self.rank = bank, batch_size, steps, seed, rank
        self.crop_frames, self.window_frames, self.band = crop_frames, window_frames, band
        self.device = torch.device(device) if device else bank.device
        self.epoch = 0
        self.hop = window_frames // 2
        self.in_proximity = in_proximity(deformation or TemporalProximity(), batch_size).to(bank.device)
        self.window_sounds, self.window_starts = bank.windows(window_frames, self.hop)
        self.groups = ids.to(bank.device)  # [N]
        # The positive of window w is drawn from the windows lowest[w] to highest[w].
        window_groups = self.groups[self.window_sounds]
        sizes = torch.bincount(window_groups)
        after = sizes.cumsum(0)[window_groups]  # one past the last window of the window's group
        here = torch.arange(len(self.window_sounds), device=bank.device)
        reach = round(proximity_seconds / hop_seconds / self.hop) if groups is None else len(here)
        self.lowest = torch.maximum(here - reach, after - sizes[window_groups])
        self.highest = torch.minimum(here + reach, after - 1)
        self.cumulative = self.cumulative_weights(max_seconds, quiet_weight, hop_seconds)

    def cumulative_weights(self, max_seconds: float, quiet_weight: float, hop_seconds: float) -> torch.Tensor:
        """For each window, and for the end, the sum of the weights before it: torch.Tensor [W + 1], float64."""
        bank = self.bank
        counts = torch.bincount(self.window_sounds, minlength=len(bank))
        seconds = (bank.lengths.clamp(min=self.window_frames) * hop_seconds).clamp(max=max_seconds)
        audible = audibility(*bank.peaks(self.window_sounds, self.window_starts, self.window_frames), quiet_weight)
        weights = (seconds / counts)[self.window_sounds].double() * audible
        return torch.cat([weights.new_zeros(1), weights.cumsum(0)])

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Called by the Brain at the start of an epoch."""
        self.epoch = epoch

    def __getitem__(self, step: int) -> PairBatch:
        """Draw batch ``step`` of the current epoch."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step is {step}: expected 0 to {self.steps - 1}.")
        entropy = [self.seed, self.rank, self.epoch, step]
        draw_seed, batch_seed = np.random.SeedSequence(entropy).generate_state(2).tolist()
        generator = torch.Generator(self.bank.device).manual_seed(draw_seed)
        anchors, positives = self.draw_windows(generator)
        anchor_starts, positive_starts = self.jitter(anchors, generator), self.jitter(positives, generator)
        positives = torch.where(self.in_proximity, positives, anchors)
        positive_starts = torch.where(self.in_proximity, positive_starts, anchor_starts)
        anchor_crops = self.bank.crops(self.window_sounds[anchors], anchor_starts, self.crop_frames)
        positive_crops = self.bank.crops(self.window_sounds[positives], positive_starts, self.crop_frames)
        groups = self.groups[self.window_sounds[anchors]]
        parts = anchor_crops, positive_crops, groups
        anchor_crops, positive_crops, groups = (part.to(self.device, non_blocking=True) for part in parts)
        return PairBatch(anchor_crops, positive_crops, groups, batch_seed)

    def draw_windows(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the windows of a batch, by inverting the cumulative weights.

        Returns
        -------
        anchors, positives : torch.Tensor [B], int64
            Numbers of windows.
        """
        share = torch.rand(2, self.batch_size, generator=generator, device=self.bank.device, dtype=torch.float64)
        if self.band < 1:
            first = torch.rand((), generator=generator, device=self.bank.device, dtype=torch.float64)
            share[0] = (1 - self.band) * first + self.band * share[0]
        anchors = self.window_at(share[0] * self.cumulative[-1])
        low, high = self.cumulative[self.lowest[anchors]], self.cumulative[self.highest[anchors] + 1]
        positives = self.window_at(low + share[1] * (high - low))
        return anchors, torch.clamp(positives, self.lowest[anchors], self.highest[anchors])

    def window_at(self, weight: torch.Tensor) -> torch.Tensor:
        """The window at which the cumulative weights reach ``weight``: [B] float64 to [B] int64."""
        return torch.searchsorted(self.cumulative, weight, right=True).sub_(1).clamp_(0, len(self.window_sounds) - 1)

    def jitter(self, windows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """First frames of crops [B]: those of the windows, moved at random by up to half a hop within the sound."""
        half_hop = self.hop // 2
        moved = torch.randint(-half_hop, half_hop + 1, windows.shape, generator=generator, device=self.bank.device)
        latest = (self.bank.lengths[self.window_sounds[windows]] - self.window_frames).clamp(min=0)
        return torch.minimum((self.window_starts[windows] + moved).clamp(min=0), latest)


def in_proximity(deformation: torch.nn.Module, n_pairs: int) -> torch.Tensor:
    """Tell for each pair of a batch whether the positive is another crop than the anchor (True) or the same crop.

    Only the deformation decides this, so that a yaml states it in one place. If a `Composition` or a `OneKindPerBatch`
    contains `TemporalProximity`, it is True for all pairs. In a `OneKindPerExample`, it is True for the pairs that get
    the kind `TemporalProximity`. If nothing contains `TemporalProximity`, it is False for all pairs.

    Arguments
    ---------
    deformation : Deformation
    n_pairs : int

    Returns
    -------
    torch.Tensor [n_pairs], bool

    Example
    -------
    >>> in_proximity(OneKindPerExample([Deformation(), TemporalProximity()]), 4)
    tensor([False, False,  True,  True])
    """
    if isinstance(deformation, OneKindPerExample):
        choices = deformation.choose(torch.empty(n_pairs), None)
        return torch.cat([in_proximity(deformation.kind(kind), part.stop - part.start) for kind, part in choices])
    if isinstance(deformation, Composition):
        return torch.stack([in_proximity(part, n_pairs) for part in deformation.deformations]).any(0)
    return torch.full((n_pairs,), isinstance(deformation, TemporalProximity))


def group_rows(frames: datasets.Dataset, rows: list[int], pair_by: str) -> tuple[list[int], list[int] | None]:
    """The groups of sounds that positives are drawn from.

    Arguments
    ---------
    frames : datasets.Dataset
        From `cochlea_sb.data.corpus.load_corpus`.
    rows : list of int
        Sounds to draw from.
    pair_by : str
        What forms a group. ``sound``: each sound. ``source``: all sounds of one source; a sound without a source is a
        group of its own. ``label``: all sounds of one label; sounds without a label are left out.

    Returns
    -------
    rows : list of int
        Sorted by group.
    groups : list of int or None
        The group of each of these sounds, ascending; None for ``sound``.

    Raises
    ------
    UserError
        If the corpus has no such column.
    """
    if pair_by == "sound":
        return rows, None
    values = column(frames, pair_by) if pair_by in ("source", "label") else None
    if values is None:
        raise UserError(f"pair_by is '{pair_by}': expected sound, or source or label if the corpus has that column.")
    names = sorted({str(value) for value in values if value is not None})
    numbers = {name: number for number, name in enumerate(names)}
    if pair_by == "label":
        rows = [row for row in rows if values[row] is not None]
    groups = {row: len(names) + row if values[row] is None else numbers[str(values[row])] for row in rows}
    rows = sorted(rows, key=lambda row: groups[row])
    return rows, [groups[row] for row in rows]
