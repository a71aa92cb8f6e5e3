"""The HTK mel scale and its filters: arithmetic that the features and the deformations share."""

import torch


def hz_to_mel(hz: torch.Tensor) -> torch.Tensor:
    """Mel value of a frequency: ``2595 log10(1 + hz / 700)`` (the HTK book, section 5.4).

    Arguments
    ---------
    hz : torch.Tensor, Hz

    Returns
    -------
    torch.Tensor of the same shape
    """
    return 2595.0 * torch.log10(1.0 + hz / 700.0)


def mel_to_hz(mel: torch.Tensor) -> torch.Tensor:
    """Frequency of a mel value; the inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def mel_edges(n_mels: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """Corner frequencies of the filters: filter ``m`` rises from edge ``m``, peaks at ``m + 1``, ends at ``m + 2``.

    Returns
    -------
    torch.Tensor [n_mels + 2], float64, Hz
    """
    # On the CPU by name: a model is first built on the device meta, which knows no values.
    low, high = hz_to_mel(torch.tensor([low_hz, high_hz], dtype=torch.float64, device="cpu")).tolist()
    return mel_to_hz(torch.linspace(low, high, n_mels + 2, dtype=torch.float64, device="cpu"))


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """Triangular filters of height 1 on the mel scale.

    A band narrower than a frequency bin would catch nothing: each slope is at least one bin wide.

    Returns
    -------
    torch.Tensor [n_fft // 2 + 1, n_mels], float32
    """
    bin_hz = sample_rate / n_fft
    edges = mel_edges(n_mels, low_hz, high_hz)
    centres = edges[1:-1]
    rise = (centres - edges[:-2]).clamp(min=bin_hz)
    fall = (edges[2:] - centres).clamp(min=bin_hz)
    hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64, device="cpu")[:, None] * bin_hz
    return torch.minimum((hz - centres) / rise + 1, (centres - hz) / fall + 1).clamp(min=0).float()
