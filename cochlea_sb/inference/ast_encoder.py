"""The Audio Spectrogram Transformer of transformers (Gong et al. 2021, arXiv 2104.01778). Axes: B windows, T frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from cochlea_sb.inference.transformers_encoder import TransformersEncoder

FRAME_SECONDS, HOP_SECONDS = 0.025, 0.01  # of Kaldi's filter banks


class ASTEncoder(TransformersEncoder):
    """The pooled output of an `ASTModel`.

    Arguments
    ---------
    model, extractor, folder, device : as in `TransformersEncoder`
    """

    def __init__(self, model: Any, extractor: Any, folder: Path, device: str) -> None:
        super().__init__(model, extractor, folder, device)
        self.embedding_size = int(model.config.hidden_size)
        self.window_seconds = extractor.max_length * HOP_SECONDS

    @torch.inference_mode()
    def embed(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed windows.

        Arguments
        ---------
        windows, lengths : torch.Tensor [B, samples] and [B], as in `Encoder.embed`

        Returns
        -------
        torch.Tensor [B, D]
        """
        pooled: torch.Tensor = self.model(self.features(windows, lengths)).pooler_output
        return pooled

    def features(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The features of `ASTFeatureExtractor`, of a batch at once: [B, max_length, mels].

        Arguments
        ---------
        windows, lengths : torch.Tensor [B, samples] and [B], as in `Encoder.embed`

        Returns
        -------
        torch.Tensor [B, max_length, mels]
        """
        from torchaudio.compliance.kaldi import fbank

        given, rate = self.extractor, self.sample_rate
        size, hop = int(rate * FRAME_SECONDS), int(rate * HOP_SECONDS)
        frames = windows.unfold(1, size, hop)  # [B, T, size]
        # `fbank` takes one waveform. Here it is all frames in a row, with a frame shift as long as a frame.
        shift = 1000 * FRAME_SECONDS
        options = {"window_type": "hanning", "num_mel_bins": given.num_mel_bins, "frame_shift": shift}
        mels = fbank(frames.reshape(1, -1), sample_frequency=rate, **options).unflatten(0, frames.shape[:2])
        n_frames = ((lengths - size) // hop + 1).clamp(min=1)
        inside = torch.arange(mels.shape[1], device=mels.device) < n_frames[:, None]
        mels = F.pad(mels * inside[..., None], (0, 0, 0, given.max_length - mels.shape[1]))
        return (mels - given.mean) / (given.std * 2) if given.do_normalize else mels
