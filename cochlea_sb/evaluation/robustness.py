"""Whether a deformed query, or half of a sound, still finds its original.

Training deforms mel frames. Here the waveform itself is deformed, by torchaudio's phase vocoder and soxr, combined as
in librosa, to check that the invariance carries over.
"""

from collections.abc import Callable, Mapping, Sequence

import soxr
import torch
from torch.nn import functional as F
from torchaudio.transforms import InverseSpectrogram, Spectrogram, TimeStretch
from tqdm import tqdm

from cochlea_sb.evaluation.retrieval import ids_of

STRENGTHS: dict[str, tuple[float, ...]] = {
    "pitch shift (semitones)": (-6, -4, -2, -1, 1, 2, 4, 6),
    "time stretch (rate)": (0.6, 0.7, 0.85, 0.95, 1.05, 1.15, 1.4, 1.7),
    "noise (SNR in dB)": (40, 30, 20, 10, 0),
    "gain (dB)": (-30, -20, -10, 0, 10),  # at 0 dB nothing is changed
}
KS = (1, 10)  # ranks at which recall is taken


def stretch(wav: torch.Tensor, rate: float, n_fft: int = 512) -> torch.Tensor:
    """Change the speed and keep the pitch, by torchaudio's phase vocoder.

    Arguments
    ---------
    wav : torch.Tensor [samples]
    rate : float
        2 halves the duration.
    n_fft : int

    Returns
    -------
    torch.Tensor [samples / rate]
    """
    hop = n_fft // 4
    padded = F.pad(wav, (0, max(0, n_fft - len(wav))))
    spectrum = Spectrogram(n_fft, hop_length=hop, power=None)(padded)
    stretched = TimeStretch(hop, n_fft // 2 + 1, rate)(spectrum)
    samples = round(len(wav) / rate)
    inverse: torch.Tensor = InverseSpectrogram(n_fft, hop_length=hop)(stretched, length=max(n_fft, samples))
    return inverse[: max(1, samples)]


def deform(wav: torch.Tensor, kind: str, strength: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Deform a waveform.

    Arguments
    ---------
    wav : torch.Tensor [samples]
    kind : str
        A key of `STRENGTHS`.
    strength : float
        In the unit that ``kind`` names.
    generator : torch.Generator, optional
        Draws the noise.

    Returns
    -------
    torch.Tensor [samples], a time stretch changes the length
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
    """Recall of the original of each deformed sound, at ranks 1 and 10.

    Arguments
    ---------
    front_end : callable
        From waveforms [1, samples] to frames [1, frames, mels].
    encoders : dict
        By name, from frames to embeddings [1, 1, D] of unit norm.
    wavs : list of torch.Tensor [samples]
        The queries, before they are deformed.
    rows : list of int
        Rows of their originals in ``originals``.
    originals : dict
        By name, torch.Tensor [sounds, D], unit norm: the embeddings of all sounds.
    sources : list of str or None, [sounds], optional
        Recordings of ``originals``; see `recall_of`.
    strengths : dict, optional
        Strengths by kind; `STRENGTHS` by default.
    seed : int
        Seed of the noise.
    progress : bool
        Show a progress bar.

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
    for kind, strength in tqdm(ways, desc="Deforming", disable=not progress):
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
    """Recall of the original of each query, at ranks 1 and 10.

    Other sounds of the query's own source are left out, as in `cochlea_sb.evaluation.retrieval.query_by_example`:
    deformed sounds of one recording can't be told apart, and need not be.

    Arguments
    ---------
    queries : torch.Tensor [queries, D], unit norm
    rows : list of int, [queries]
        Rows of their originals.
    originals : torch.Tensor [sounds, D], unit norm
    sources : list of str or None, [sounds], optional

    Returns
    -------
    dict
        ``recall@1`` and ``recall@10`` in [0, 1]. Originals of equal similarity keep their order.

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
