"""Functions on mel energies that several deformations use.

Deformations compute with mel energies instead of log-mel values, because silence is then 0 and the energies of mixed
sounds are added.

Axes: B batch, T frames, M mel bands.
"""

import torch


def energies_from_log_mel(log_mel: torch.Tensor, floor: float = 1e-8) -> torch.Tensor:
    """Convert log-mel values of `cochlea_sb.features.LogMel` to energies.

    Arguments
    ---------
    log_mel : torch.Tensor, float16 or float32, of any shape
    floor : float, energy that the front end added before the logarithm

    Returns
    -------
    torch.Tensor, float32, at least 0, of the same shape
    """
    return log_mel.float().exp().sub_(floor).clamp_(min=0)


def log_mel_from_energies(energies: torch.Tensor, floor: float = 1e-8) -> torch.Tensor:
    """Convert energies to the log-mel values of `cochlea_sb.features.LogMel`: ``log(energies + floor)``."""
    return torch.log(energies + floor)


def uniform(low: float, high: float, like: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw a number from [low, high) for each example of ``like`` [batch, ...]: [batch], on the same device."""
    return low + (high - low) * torch.rand(len(like), generator=generator, device=like.device)


def resample_frames(energies: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Interpolate energies [batch, frames, mels] linearly along time: [batch, new_frames, mels].

    ``positions`` [batch, new_frames], float, in frames, may lie outside the input, where the energies are 0.
    """
    last = energies.shape[1] - 1
    left = positions.floor()
    share = positions - left  # weight of the right-hand frame
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
    """Interpolate energies [batch, frames, mels] linearly along frequency: [batch, frames, new_mels].

    ``positions`` [batch, new_mels], float, in bands, may lie outside the input, where the energies are 0.
    """
    # For 64 bands, a product with a matrix of triangular functions is faster than a gather.
    bands = torch.arange(energies.shape[2], device=energies.device, dtype=positions.dtype)
    hats = (1 - (positions[:, None, :] - bands[:, None]).abs()).clamp(min=0)  # [B, M, new M]
    return torch.bmm(energies, hats)
