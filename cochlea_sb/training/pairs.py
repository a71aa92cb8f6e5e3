"""Draw pairs of crops for training: an anchor and a positive, from one sound or from one group of sounds.

Crops within a few seconds of each other probably sound alike (temporal proximity, Jansen et al. 2017, section 3).

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
    """Batches of pairs for one epoch: ``batches[step]`` draws the batch of a step.

    A batch depends only on ``seed``, the epoch and the step, and is the same in all processes of distributed training.
    An interrupted run can therefore continue with the same batches, in any number of processes. Use a ``DataLoader``
    with ``batch_size=None``.

    The anchor is a crop of a random window. The probability of a window is proportional to
    ``min(seconds, max_seconds) / n_windows * audibility``, where ``seconds`` is the length of the sound of the window,
    and ``n_windows`` is the number of windows of this sound. The `cochlea_sb.features.audibility` is 1 for the loudest
    window of a sound, and ``quiet_weight`` for windows that are at least 20 dB quieter. The positive is a crop of a
    nearby window, or the same crop as the anchor: see `in_proximity`. A crop starts at random up to half a
    window hop before or after the start of its window.

    Arguments
    ---------
    bank : FrameBank
    batch_size, steps : int
        Pairs in a batch, and batches in an epoch. Without ``groups``, ``batch_size`` is at most the number of sounds.
    seed : int, seed of the random draws
    deformation : Deformation, optional
        Decides which positives are another crop than their anchor: see `in_proximity`. By default, all of them are.
    crop_frames, window_frames : int
        Lengths of crops and of windows. If a sound has at least ``window_frames`` frames, the first ``window_frames``
        frames of each of its crops lie inside the sound.
    proximity_seconds : float, above 0
        Largest distance between the window of an anchor and the window of its positive. Not used with ``groups``.
    groups : list of int [N], ascending, optional
        Group of each sound, from `group_rows`. The positive then comes from another sound of the anchor's group, or
        from any window of the anchor's sound if this is the only sound of its group.
    max_seconds, quiet_weight : float
        For the probability of a window, see above.
    hop_seconds : float
        Distance between two frames.
    band : float in (0, 1]
        All anchors of a batch come from one random run of consecutive windows of the bank. The probabilities of these
        windows add up to ``band``.
        In a bank that is sorted by length, the sounds of a batch then have similar lengths.
    n_banks : int
        Number of processes that draw a part of each batch, each from another bank.
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
        n_banks: int = 1,
    ) -> None:
        ids = torch.arange(len(bank)) if groups is None else torch.tensor(groups)
        if len(ids) != len(bank) or (ids.diff() < 0).any():
            raise UserError(
                f"groups has {len(ids)} numbers for {len(bank)} sounds: expected one number for each sound, in "
                "ascending order; use the rows and the groups that group_rows returns."
            )
        if len(bank) < 2:
            raise UserError("The corpus holds one sound: training compares sounds, so add at least one more file.")
        if ids[0] == ids[-1]:
            raise UserError(
                f"All {len(bank)} sounds share one label or source: training needs two or more, because negatives come "
                "from sounds with another label or source; add such sounds, or use --pair_by sound."
            )
        if batch_size < 2 or (groups is None and batch_size > n_banks * len(bank)):
            raise UserError(
                f"batch_size is {batch_size} and the corpus has {len(bank)} sounds to train on: expected at least 2, "
                f"and at most {len(bank)} if pair_by is sound; use a --batch_size from 2 to {len(bank)}, or add sounds."
            )
        if proximity_seconds <= 0:
            raise UserError(
                f"proximity_seconds is {proximity_seconds}: expected more than 0, such as 10; to make the positive the "
                "same crop as the anchor, leave TemporalProximity out of the deformation in the yaml."
            )
        self.bank, self.batch_size, self.steps, self.seed = bank, batch_size, steps, seed
        self.crop_frames, self.window_frames, self.band = crop_frames, window_frames, band
        self.max_seconds, self.quiet_weight, self.hop_seconds = max_seconds, quiet_weight, hop_seconds
        self.epoch = 0
        self.hop = window_frames // 2
        self.reach = round(proximity_seconds / hop_seconds / self.hop) if groups is None else None  # None: whole group
        self.deformation = deformation or TemporalProximity()
        self.in_proximity = in_proximity(self.deformation, batch_size).to(bank.device)
        self.make_tables(ids)

    def make_tables(self, groups: torch.Tensor) -> None:
        """Compute the tables from which windows are drawn, for the sounds of the bank and their groups, int64 [N]."""
        bank = self.bank
        self.window_sounds, self.window_starts = bank.windows(self.window_frames, self.hop)
        self.groups = groups.to(bank.device)  # [N]
        # The positive of window w is drawn from the windows lowest[w] to highest[w].
        window_groups = self.groups[self.window_sounds]
        sizes = torch.bincount(window_groups)
        after = sizes.cumsum(0)[window_groups]  # for each window, the end of its group (exclusive)
        here = torch.arange(len(self.window_sounds), device=bank.device)
        reach = len(here) if self.reach is None else self.reach
        self.lowest = torch.maximum(here - reach, after - sizes[window_groups])
        self.highest = torch.minimum(here + reach, after - 1)
        # Windows that are not drawn as a positive of window w: from skipped[0, w] to skipped[1, w], exclusive.
        counts = torch.bincount(self.window_sounds, minlength=len(bank))
        ends = counts.cumsum(0)
        several = torch.bincount(self.groups)[self.groups] > 1  # [N]: sounds that share their group
        self.skipped = torch.stack([ends - counts, torch.where(several, ends, ends - counts)])[:, self.window_sounds]
        self.cumulative = self.cumulative_weights()

    def cumulative_weights(self) -> torch.Tensor:
        """Sum of the weights of all windows before each window, float64 [W + 1]; the last value is the total weight."""
        bank = self.bank
        counts = torch.bincount(self.window_sounds, minlength=len(bank))
        seconds = (bank.lengths.clamp(min=self.window_frames) * self.hop_seconds).clamp(max=self.max_seconds)
        peaks = bank.peaks(self.window_sounds, self.window_starts, self.window_frames)
        audible = audibility(*peaks, self.quiet_weight)
        weights = (seconds / counts)[self.window_sounds].double() * audible
        return torch.cat([weights.new_zeros(1), weights.cumsum(0)])

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch. SpeechBrain calls this method before each epoch."""
        self.epoch = epoch

    def __getitem__(self, step: int) -> PairBatch:
        if not 0 <= step < self.steps:
            raise IndexError(f"step is {step}: expected 0 to {self.steps - 1}.")
        entropy = [self.seed, 0, self.epoch, step]  # the 0 keeps the draws of earlier versions
        draw_seed, batch_seed = np.random.SeedSequence(entropy).generate_state(2).tolist()
        generator = torch.Generator(self.bank.device).manual_seed(draw_seed)
        anchors, positives = self.draw_windows(generator)
        anchor_starts, positive_starts = self.jitter(anchors, generator), self.jitter(positives, generator)
        positives = torch.where(self.in_proximity, positives, anchors)
        positive_starts = torch.where(self.in_proximity, positive_starts, anchor_starts)
        anchor_crops = self.bank.crops(self.window_sounds[anchors], anchor_starts, self.crop_frames)
        positive_crops = self.bank.crops(self.window_sounds[positives], positive_starts, self.crop_frames)
        groups = self.groups[self.window_sounds[anchors]]
        return PairBatch(anchor_crops, positive_crops, groups, batch_seed)

    def draw_windows(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the windows of the anchors and of the positives, each int64 [B], in proportion to their weights."""
        share = torch.rand(2, self.batch_size, generator=generator, device=self.bank.device, dtype=torch.float64)
        if self.band < 1:
            first = torch.rand((), generator=generator, device=self.bank.device, dtype=torch.float64)
            share[0] = (1 - self.band) * first + self.band * share[0]
        anchors = self.window_at(share[0] * self.cumulative[-1])
        low, high = self.cumulative[self.lowest[anchors]], self.cumulative[self.highest[anchors] + 1]
        # In a group of several sounds, the positive comes from another sound: the anchor's own weights are skipped.
        own_low, own_high = self.cumulative[self.skipped[:, anchors]]
        weight = low + share[1] * (high - low - (own_high - own_low))
        positives = self.window_at(weight + torch.where(weight >= own_low, own_high - own_low, 0.0))
        return anchors, torch.clamp(positives, self.lowest[anchors], self.highest[anchors])

    def windows(self, count: int) -> torch.Tensor:
        """Draw windows of anchors without deformation, [count, window_frames, M], float32, the same in each call."""
        generator = torch.Generator(self.bank.device).manual_seed(self.seed)
        share = torch.rand(count, generator=generator, device=self.bank.device, dtype=torch.float64)
        drawn = self.window_at(share * self.cumulative[-1])
        return self.bank.crops(self.window_sounds[drawn], self.window_starts[drawn], self.window_frames).float()

    def window_at(self, weight: torch.Tensor) -> torch.Tensor:
        """Find the windows at which the cumulative weights reach ``weight``: float64 [B] to int64 [B]."""
        return torch.searchsorted(self.cumulative, weight, right=True).sub_(1).clamp_(0, len(self.window_sounds) - 1)

    def jitter(self, windows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Move the starts of ``windows`` at random by up to half of ``self.hop``, within the sound: int64 [B]."""
        half_hop = self.hop // 2
        moved = torch.randint(-half_hop, half_hop + 1, windows.shape, generator=generator, device=self.bank.device)
        latest = (self.bank.lengths[self.window_sounds[windows]] - self.window_frames).clamp(min=0)
        return torch.minimum((self.window_starts[windows] + moved).clamp(min=0), latest)


class MixedBatches(torch.utils.data.Dataset[PairBatch]):
    """Batches whose pairs come from two corpora: first the pairs of ``corpus``, then those of ``others``.

    The number of pairs of each is the ``batch_size`` of its `PairBatches`. Methods and attributes that describe the
    corpus are those of ``corpus``.
    """

    def __init__(self, corpus: PairBatches, others: PairBatches) -> None:
        self.corpus, self.others = corpus, others
        # A combined deformation treats the pairs of a batch by their position in the whole batch.
        nearby = in_proximity(corpus.deformation, corpus.batch_size + others.batch_size).to(corpus.bank.device)
        corpus.in_proximity, others.in_proximity = nearby.split([corpus.batch_size, others.batch_size])
        self.bank, self.groups = corpus.bank, corpus.groups

    def __len__(self) -> int:
        return len(self.corpus)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch. SpeechBrain calls this method before each epoch."""
        self.corpus.set_epoch(epoch)
        self.others.set_epoch(epoch)

    def windows(self, count: int) -> torch.Tensor:
        """Draw windows as `PairBatches.windows` does; a quarter of them are of ``others``."""
        return torch.cat([self.corpus.windows(count - count // 4), self.others.windows(count // 4)])

    def __getitem__(self, step: int) -> PairBatch:
        ours, theirs = self.corpus[step], self.others[step]
        theirs = theirs._replace(groups=-1 - theirs.groups)  # so that no group is one of the corpus
        both = zip(ours[:3], theirs[:3], strict=True)
        anchors, positives, groups = (torch.cat([part, other.to(part.device)]) for part, other in both)
        return PairBatch(anchors, positives, groups, ours.seed)


def own_pairs(batch_size: int, synthetic_share: float, n_sounds: int | None) -> int:
    """Number of pairs of a batch that come from the corpus; the others come from synthetic sources.

    Raises `UserError` if the share is out of range, or if the batch is too small.

    Arguments
    ---------
    batch_size : int
    synthetic_share : float in [0, 1)
    n_sounds : int or None
        Number of sounds of a small corpus: a batch has at most as many of its pairs. None: no such limit.

    Example
    -------
    >>> own_pairs(128, 0.75, None), own_pairs(128, 0.75, 20), own_pairs(128, 0.0, 20)
    (32, 20, 128)
    """
    if not 0 <= synthetic_share < 1:
        raise UserError(f"synthetic_share is {synthetic_share}: expected a number from 0 to less than 1.")
    own = round(batch_size * (1 - synthetic_share))
    if synthetic_share and not 2 <= own <= batch_size - 2:
        raise UserError(
            f"batch_size is {batch_size} and synthetic_share is {synthetic_share}: expected at least two pairs of the "
            "corpus and two of synthetic sources; use a larger batch_size, or set n_sources to 0."
        )
    return own if n_sounds is None or not synthetic_share else max(2, min(own, n_sounds))


def in_proximity(deformation: torch.nn.Module, n_pairs: int) -> torch.Tensor:
    """Tell for each pair of a batch whether the positive is another crop than the anchor: torch.Tensor [n_pairs], bool.

    The result is True for all pairs if the deformation is `TemporalProximity`, or a `Composition` or `OneKindPerBatch`
    that contains it. A `OneKindPerExample` gives True for the pairs to which it assigns `TemporalProximity`. All other
    deformations give False.

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
    """Sort sounds by group, so that `PairBatches` draws the anchor and the positive of a pair from the same group.

    Raises `UserError` if ``pair_by`` is none of the values below, or names a column that the corpus lacks.

    Arguments
    ---------
    frames : datasets.Dataset, from `cochlea_sb.data.corpus.load_corpus`
    rows : list of int, the sounds to use
    pair_by : str
        ``sound``: each sound is a group. ``source``: the sounds of a source are a group, and a sound without a source
        is a group of its own. ``label``: the sounds of a label are a group, and sounds without a label are left out.

    Returns
    -------
    rows, groups : list of int
        The rows, sorted by group, and the group of each row. ``groups`` is None for ``sound``.
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
