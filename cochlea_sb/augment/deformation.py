"""Deformations: changes that keep a sound's class, drawn afresh for every example of a batch, on its device.

Each is an ``nn.Module`` without parameters over mel *energies* (not their logarithm: there, silence is 0, mixing is
addition, and what slides in from beyond an edge is silence). None changes its input. `energies_from_log_mel` and
`log_mel_from_energies` lead in and out. Temporal proximity, the deformation of Jansen et al. 2017 that needs no
arithmetic, is a choice of crops (`cochlea_sb.training.pairs`); `TemporalProximity` stands for it here.

A yaml chooses how they combine: `Composition` (all, in order), `OneKindPerExample` (joint training of Jansen et al.,
section 3.4) or `OneKindPerBatch` (the zounds experiments).

Axes: B batch, T frames, M mel bands.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import nn

from cochlea_sb.errors import UserError
from cochlea_sb.features import hz_to_mel, mel_edges


def energies_from_log_mel(log_mel: torch.Tensor, floor: float = 1e-8) -> torch.Tensor:
    """Undo the logarithm and the floor of `cochlea_sb.features.LogMel`.

    Arguments
    ---------
    log_mel : torch.Tensor [batch, frames, mels], float16 or float32
    floor : float
        Energy that the front end added before the logarithm.

    Returns
    -------
    torch.Tensor [batch, frames, mels], float32, at least 0
    """
    return log_mel.float().exp().sub_(floor).clamp_(min=0)


def log_mel_from_energies(energies: torch.Tensor, floor: float = 1e-8) -> torch.Tensor:
    """The logarithm of `cochlea_sb.features.LogMel`: ``log(energies + floor)``, of the same shape."""
    return torch.log(energies + floor)


def uniform(low: float, high: float, like: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """One draw from [low, high) for each example.

    Returns
    -------
    torch.Tensor [batch, 1], on the device of ``like``
    """
    draws = torch.rand(like.shape[0], 1, generator=generator, device=like.device)
    return low + (high - low) * draws


def resample_frames(energies: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Read frames at fractional positions, linearly interpolated; beyond either end there is silence.

    Arguments
    ---------
    energies : torch.Tensor [batch, frames, mels]
    positions : torch.Tensor [batch, new_frames], float, in frames

    Returns
    -------
    torch.Tensor [batch, new_frames, mels]
    """
    last = energies.shape[1] - 1
    left = positions.floor()
    share = positions - left  # of the right-hand frame
    inside = (positions > -1) & (positions < last + 1)
    left_share = ((1 - share) * (inside & (left >= 0)))[..., None]
    right_share = (share * (inside & (left < last)))[..., None]
    examples = torch.arange(len(energies), device=energies.device)[:, None]
    left = left.long()
    return torch.addcmul(
        energies[examples, left.clamp(0, last)] * left_share,
        energies[examples, (left + 1).clamp(0, last)],
        right_share,
    )


def resample_mels(energies: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Read mel bands at fractional positions, linearly interpolated; beyond either end there is silence.

    Interpolation is a product with a matrix of hat functions: with this few bands that is quicker than a gather.

    Arguments
    ---------
    energies : torch.Tensor [batch, frames, mels]
    positions : torch.Tensor [batch, new_mels], float, in bands

    Returns
    -------
    torch.Tensor [batch, frames, new_mels]
    """
    bands = torch.arange(energies.shape[2], device=energies.device, dtype=positions.dtype)
    hats = (1 - (positions[:, None, :] - bands[:, None]).abs()).clamp(min=0)  # [B, M, new M]
    return torch.bmm(energies, hats)


class Deformation(nn.Module):
    """What all deformations share: the call.

    ``deformation(energies, others=None, generator=None)`` takes mel energies [batch, frames, mels] and gives the
    deformed ones, of the same shape. ``others`` are energies of other sounds, one for each example, for the
    deformation that needs some (`Mixture`); ``generator`` makes the draws repeatable.
    """


class GaussianNoise(Deformation):
    """Add white Gaussian noise at a signal-to-noise ratio drawn for each example.

    White noise gives a band energy in proportion to its width in Hz, and fluctuates less the more independent
    frequency bins the band spans: a gamma variable, drawn here through the Wilson-Hilferty cube of a normal one.

    Arguments
    ---------
    snr_low_db, snr_high_db : float
        Range of the ratio of the example's energy to the noise's.
    n_mels, low_hz, high_hz :
        As in `LogMel`.
    resolution_hz : float
        Width of one independent frequency bin: about 1.5 / window length for a Hann window (60 Hz for 25 ms).
    """

    share: torch.Tensor
    shape: torch.Tensor

    def __init__(
        self,
        snr_low_db: float = 0.0,
        snr_high_db: float = 60.0,
        n_mels: int = 64,
        low_hz: float = 60.0,
        high_hz: float = 7800.0,
        resolution_hz: float = 60.0,
    ) -> None:
        super().__init__()
        check_range("snr_low_db", snr_low_db, "snr_high_db", snr_high_db)
        self.snr_low_db, self.snr_high_db = snr_low_db, snr_high_db
        edges = mel_edges(n_mels, low_hz, high_hz)
        width = (edges[2:] - edges[:-2]) / 2
        self.register_buffer("share", (width / width.sum()).float(), persistent=False)
        self.register_buffer("shape", (width / resolution_hz).clamp(min=1).float(), persistent=False)

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        snr_db = uniform(self.snr_low_db, self.snr_high_db, energies, generator)
        signal = energies.sum(2).mean(1, keepdim=True)  # [B, 1], energy of a frame
        level = signal * 10 ** (-snr_db / 10)
        normal = torch.randn(energies.shape, generator=generator, device=energies.device)
        spread = 1 / (3 * self.shape.sqrt())
        gamma = (normal * spread + (1 - spread.square())).clamp_(min=0).pow_(3)  # mean 1, variance 1 / shape
        return torch.addcmul(energies, gamma, level[:, :, None] * self.share)


class SpectralNoise(Deformation):
    """Multiply each energy by ``1 + |e|``, e drawn from a normal distribution (Jansen et al. 2017, section 3.1).

    Arguments
    ---------
    spread : float
        Standard deviation of e (the paper: 0.5).
    """

    def __init__(self, spread: float = 0.5) -> None:
        super().__init__()
        self.spread = spread

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        normal = torch.randn(energies.shape, generator=generator, device=energies.device)
        return energies * normal.mul_(self.spread).abs_().add_(1)


class Translation(Deformation):
    """Shift in time, circularly, and in frequency, with silence entering (Jansen et al. 2017, section 3.2).

    Arguments
    ---------
    max_frames : int
        Largest shift in time, either way; the shift is a whole number of frames.
    max_bands : float
        Largest shift in mel bands, either way.
    """

    def __init__(self, max_frames: int = 48, max_bands: float = 4.0) -> None:
        super().__init__()
        self.max_frames, self.max_bands = max_frames, max_bands

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        n_frames, n_mels = energies.shape[1:]
        later = uniform(-self.max_frames, self.max_frames, energies, generator).round().long()
        higher = uniform(-self.max_bands, self.max_bands, energies, generator)
        frames = (torch.arange(n_frames, device=energies.device) - later) % n_frames
        examples = torch.arange(len(energies), device=energies.device)[:, None]
        bands = torch.arange(n_mels, device=energies.device) - higher
        return resample_mels(energies[examples, frames], bands)


class TimeStretch(Deformation):
    """Play faster or slower without change of pitch, the first frame staying where it is.

    At a rate above 1 the end of the crop comes from beyond it, which is silence: hand over longer crops than are
    needed and cut afterwards, as `cochlea_sb.training.brain` does.

    Arguments
    ---------
    max_rate : float, at least 1
        Rates are drawn log-uniformly from ``[1 / max_rate, max_rate]``; 2 halves or doubles the duration.
    """

    def __init__(self, max_rate: float = 1.5) -> None:
        super().__init__()
        if max_rate < 1:
            raise UserError(f"max_rate is {max_rate}: expected at least 1, which changes nothing.")
        self.max_rate = max_rate

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        rate = self.max_rate ** uniform(-1, 1, energies, generator)
        return resample_frames(energies, torch.arange(energies.shape[1], device=energies.device) * rate)


class PitchShift(Deformation):
    """Multiply all frequencies by one ratio, the timing staying as it is.

    Arguments
    ---------
    max_semitones : float
        Shifts are drawn uniformly from ``[-max_semitones, max_semitones]``.
    n_mels, low_hz, high_hz :
        As in `LogMel`.
    """

    centres_hz: torch.Tensor

    def __init__(
        self, max_semitones: float = 4.0, n_mels: int = 64, low_hz: float = 60.0, high_hz: float = 7800.0
    ) -> None:
        super().__init__()
        self.max_semitones = max_semitones
        edges = mel_edges(n_mels, low_hz, high_hz)
        mels = hz_to_mel(edges)
        self.first_mel, self.band_mels = float(mels[1]), float(mels[1] - mels[0])
        self.register_buffer("centres_hz", edges[1:-1].float(), persistent=False)

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        ratio = 2 ** (uniform(-self.max_semitones, self.max_semitones, energies, generator) / 12)
        came_from = (hz_to_mel(self.centres_hz / ratio) - self.first_mel) / self.band_mels  # [B, M]
        return resample_mels(energies, came_from)


class FrequencyResize(Deformation):
    """Stretch and move the mel axis itself: formants and bandwidths change, as between bodies of another size.

    Not of the paper. A random resized crop along frequency (Niizuma et al. 2021, BYOL-A, did it along both axes); on
    ESC-10 it helped more than any other single deformation here.

    Arguments
    ---------
    max_change : float in [0, 1)
        The axis is scaled about its middle by a factor drawn from ``[1 - max_change, 1 + max_change]`` and moved by
        up to ``max_change / 4`` of its length.
    """

    def __init__(self, max_change: float = 0.4) -> None:
        super().__init__()
        if not 0 <= max_change < 1:
            raise UserError(f"max_change is {max_change}: expected 0, which changes nothing, to less than 1.")
        self.max_change = max_change

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        n_mels = energies.shape[2]
        scale = 1 + uniform(-self.max_change, self.max_change, energies, generator)
        shift = uniform(-self.max_change, self.max_change, energies, generator) * n_mels / 4
        from_middle = torch.arange(n_mels, device=energies.device) - (n_mels - 1) / 2
        return resample_mels(energies, from_middle * scale + (n_mels - 1) / 2 + shift)


class Equalization(Deformation):
    """Another microphone: a smooth gain over frequency, the same for all frames of an example.

    Not of the paper. It hides what tells one recording from another without being the sound.

    Arguments
    ---------
    spread_db : float
        Standard deviation of the gain at each of five knots along the mel axis, straight lines between them.
    n_mels : int
    """

    hats: torch.Tensor

    def __init__(self, spread_db: float = 6.0, n_mels: int = 64) -> None:
        super().__init__()
        self.spread_db = spread_db
        knots = torch.linspace(0, 4, n_mels)
        hats = (1 - (knots - torch.arange(5)[:, None]).abs()).clamp(min=0)  # [5, M]
        self.register_buffer("hats", hats, persistent=False)

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        knots_db = self.spread_db * torch.randn(len(energies), 5, generator=generator, device=energies.device)
        return energies * (10 ** (knots_db @ self.hats / 10))[:, None]


class Gain(Deformation):
    """Louder or quieter. What falls below the front end's floor is lost, as it would be in a quiet recording.

    Arguments
    ---------
    max_db : float
        Gains are drawn uniformly from ``[-max_db, max_db]``.
    """

    def __init__(self, max_db: float = 20.0) -> None:
        super().__init__()
        self.max_db = max_db

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        return energies * 10 ** (uniform(-self.max_db, self.max_db, energies, generator)[:, :, None] / 10)


class Mixture(Deformation):
    """Add another sound, at a drawn ratio of their energies (Jansen et al. 2017, section 3.3).

    Arguments
    ---------
    max_ratio : float
        The other sound's energy over the example's own is drawn uniformly from ``[0, max_ratio]``.
    """

    def __init__(self, max_ratio: float = 0.5) -> None:
        super().__init__()
        if max_ratio < 0:
            raise UserError(f"max_ratio is {max_ratio}: expected at least 0, which changes nothing.")
        self.max_ratio = max_ratio

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`. Without ``others``, each example gets its neighbour in the batch."""
        others = energies.roll(1, 0) if others is None else others
        ratio = uniform(0, self.max_ratio, energies, generator)[:, :, None]
        own, theirs = energies.sum((1, 2), keepdim=True), others.sum((1, 2), keepdim=True)
        scale = torch.where(theirs > 0, ratio * own / theirs, 0)
        return torch.addcmul(energies, others, scale)


class TemporalProximity(Deformation):
    """Leave a crop as it is: that the positive is another crop of the sound is all the deformation.

    Stands in `OneKindPerExample` for the pairs that are neighbours rather than the same crop twice: the last ones of
    a batch (see ``neighbour_share`` in `cochlea_sb.training.pairs`).
    """

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Give the mel energies back."""
        return energies


class Composition(Deformation):
    """All deformations, one after the other, on every example.

    Arguments
    ---------
    deformations : list of Deformation
    """

    def __init__(self, deformations: Sequence[Deformation]) -> None:
        super().__init__()
        self.deformations = nn.ModuleList(deformations)

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        for deformation in self.deformations:
            energies = deformation(energies, others, generator)
        return energies


class OneKindPerBatch(Composition):
    """One of the deformations, drawn for the whole batch (as the zounds experiments trained)."""

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        # The choice steers Python. A generator's state lies on the CPU, its draws may not: reading one would stall.
        kind = int(torch.randint(2**31, ())) if generator is None else zlib.crc32(bytes(generator.get_state()))
        deformed: torch.Tensor = self.deformations[kind % len(self.deformations)](energies, others, generator)
        uniform(0, 1, energies, generator)  # moves the generator on, even if the deformation drew nothing
        return deformed


class OneKindPerExample(Composition):
    """One of the deformations for each example: the joint training of Jansen et al. 2017, section 3.4.

    The batch, whose order is random anyway, is cut into as many parts of about the same size.
    """

    def forward(
        self,
        energies: torch.Tensor,
        others: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Deform mel energies; see `Deformation`."""
        others = energies.roll(1, 0) if others is None else others
        parts = (batch.tensor_split(len(self.deformations)) for batch in (energies, others))
        return torch.cat(
            [
                deformation(part, other, generator)
                for deformation, part, other in zip(self.deformations, *parts, strict=True)
            ]
        )


def check_range(low_name: str, low: float, high_name: str, high: float) -> None:
    """Raise `UserError` unless ``low <= high``."""
    if low > high:
        raise UserError(f"{low_name} is {low} and {high_name} is {high}: expected {low_name} <= {high_name}.")
