"""Measures whether a deformed query still finds its original.

Training deforms mel frames. This module deforms waveforms, to check that the invariance holds for real sounds too. A
phase vocoder (torchaudio) stretches time; as in librosa, stretching and resampling (soxr) together shift the pitch.
"""

from collections.abc import Callable, Mapping, Sequence

import soxr
import torch
from torch.nn import functional as F
from torchaudio.transforms import InverseSpectrogram, Spectrogram, TimeStretch

from cochlea_sb.evaluation.retrieval import ids_of
from cochlea_sb.machine import progress_bar

STRENGTHS: dict[str, tuple[float, ...]] = {
    "pitch shift (semitones)": (-6, -4, -2, -1, 1, 2, 4, 6),
    "time stretch (rate)": (0.6, 0.7, 0.85, 0.95, 1.05, 1.15, 1.4, 1.7),
    "noise (SNR in dB)": (40, 30, 20, 10, 0),
    "gain (dB)": (-30, -20, -10, 0, 10),  # 0 dB leaves the sound unchanged
}
KS = (1, 10)  # values of k for recall@k


def stretch(wav: torch.Tensor, rate: float, n_fft: int = 512) -> torch.Tensor:
    """Change the speed of a waveform [samples] and keep its pitch: torch.Tensor [samples / rate]."""
    hop = n_fft // 4
    padded = F.pad(wav, (0, max(0, n_fft - len(wav))))
    spectrum = Spectrogram(n_fft, hop_length=hop, power=None)(padded)
    stretched = TimeStretch(hop, n_fft // 2 + 1, rate)(spectrum)
    samples = round(len(wav) / rate)
    inverse: torch.Tensor = InverseSpectrogram(n_fft, hop_length=hop)(stretched, length=max(n_fft, samples))
    return inverse[: max(1, samples)]


def deform(wav: torch.Tensor, kind: str, strength: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Deform a waveform [samples]; a time stretch changes its length.

    ``kind`` is a key of `STRENGTHS`, and ``strength`` is in the unit that the key names. ``generator`` draws the noise.
    """
    if kind.startswith("pitch"):
        ratio = 2 ** (strength / 12)
        return torch.from_numpy(soxr.resample(stretch(wav, 1 / ratio).numpy(), ratio, 1.0))
    if kind.startswith("time"):
        return stretch(wav, strength)
    if kind.startswith("noise"):
        noise = torch.randn(wav.shape, generator=generator)
        return wav + noise * wav.square().mean().sqrt() * 10 ** (-strength / 20)
    return wav * 10 ** (strength / 20)


@torch.inference_mode()
def robustness(
    front_end: Callable[[torch.Tensor], torch.Tensor],
    encoders: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
    wavs: Sequence[torch.Tensor],
    rows: Sequence[int],
    originals: Mapping[str, torch.Tensor],
    sources: Sequence[str | None] | None = None,
    *,
    strengths: Mapping[str, Sequence[float]] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, dict[str, dict[str, dict[float, float]]]]:
    """Deform each query in all kinds and strengths, and measure recall@1 and recall@10 of the originals.

    Arguments
    ---------
    front_end : callable
        Computes frames [1, frames, mel bands] from a waveform [1, samples].
    encoders : dict
        By name, a callable that computes embeddings [1, 1, dimensions] of unit norm from frames.
    wavs : list of torch.Tensor [samples]
        The queries, before they are deformed.
    rows : list of int
        For each query, the row of its original in ``originals``.
    originals : dict
        By name of the encoder, the embeddings of all sounds: torch.Tensor [sounds, dimensions], unit norm.
    sources : list of str or None, [sounds], optional
        Recording that each sound was cut from; see `recall_of`.
    strengths : dict, optional
        Strengths by kind; `STRENGTHS` by default.
    seed, progress : int, bool
        Seed of the noise; whether to show a progress bar.

    Returns
    -------
    dict
        ``recall@1`` and ``recall@10``, each by encoder, kind and strength.
    """
    strengths = STRENGTHS if strengths is None else strengths
    result: dict[str, dict[str, dict[str, dict[float, float]]]] = {
        f"recall@{k}": {name: {kind: {} for kind in strengths} for name in encoders} for k in KS
    }
    ways = [(kind, strength) for kind, values in strengths.items() for strength in values]
    for kind, strength in progress_bar(ways, desc="Deforming", show=progress):
        generator = torch.Generator().manual_seed(seed)
        frames = [front_end(deform(wav, kind, strength, generator)[None]) for wav in wavs]
        for name, encoder in encoders.items():
            queries = torch.cat([encoder(each)[:, 0] for each in frames]).cpu()
            for at_k, recall in recall_of(queries, rows, originals[name].cpu(), sources).items():
                result[at_k][name][kind][strength] = recall
    return result


def recall_of(
    queries: torch.Tensor, rows: Sequence[int], originals: torch.Tensor, sources: Sequence[str | None] | None = None
) -> dict[str, float]:
    """Recall@1 and recall@10, in [0, 1], of the original of each query.

    ``queries`` [queries, dimensions] and ``originals`` [sounds, dimensions] are embeddings of unit norm. The original
    of a query stands in the row of ``originals`` that ``rows`` [queries] names. Other sounds from the same source are
    left out of the ranking, because deformed sounds from one recording can't be told apart.

    Example
    -------
    >>> recall_of(torch.eye(3)[:1], [2], torch.eye(3))
    {'recall@1': 0.0, 'recall@10': 1.0}
    """
    own = torch.as_tensor(rows)
    source_ids = ids_of(sources or [None] * len(originals), "cpu")
    left_out = (source_ids[own, None] == source_ids) & (source_ids[own, None] >= 0)
    left_out[torch.arange(len(own)), own] = False
    nearest = (queries @ originals.T).masked_fill(left_out, -torch.inf).topk(min(max(KS), len(originals))).indices
    return {f"recall@{k}": float((nearest[:, :k] == own[:, None]).any(1).float().mean()) for k in KS}
