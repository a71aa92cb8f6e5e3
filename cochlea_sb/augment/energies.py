"""Arithmetic on mel energies that several deformations share.

Deformations work on mel *energies*, not on their logarithm: there silence is 0, mixing is addition, and what slides in
from beyond an edge is silence.

Axes: B batch, T frames, M mel bands.
"""

import torch


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
    torch.Tensor [batch], on the device of ``like`` [batch, ...]
    """
    return low + (high - low) * torch.rand(len(like), generator=generator, device=like.device)


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

    Interpolation is a product with a matrix of hat functions: with this few bands that is faster than a gather.

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
