"""Models of transformers that read waveforms: wav2vec2, HuBERT, WavLM and others. Axes: B windows, T frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cochlea_sb.inference.transformers_encoder import TransformersEncoder


class WaveformEncoder(TransformersEncoder):
    """The mean over time of the last hidden state of a model such as wav2vec2.

    Arguments
    ---------
    model, extractor, folder, device : as in `TransformersEncoder`
    """

    window_seconds = 1.0

    def __init__(self, model: Any, extractor: Any, folder: Path, device: str) -> None:
        super().__init__(model, extractor, folder, device)
        self.embedding_size = int(model.config.hidden_size)
        self.shortest = 1  # samples of a frame
        for kernel, stride in zip(reversed(model.config.conv_kernel), reversed(model.config.conv_stride), strict=True):
            self.shortest = (self.shortest - 1) * stride + kernel

    @torch.inference_mode()
    def embed(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed windows. Waveforms are normalised and masked as by `Wav2Vec2FeatureExtractor`.

        Arguments
        ---------
        windows, lengths : torch.Tensor [B, samples] and [B], as in `Encoder.embed`

        Returns
        -------
        torch.Tensor [B, D]
        """
        lengths = lengths.clamp(min=self.shortest)
        inside = torch.arange(windows.shape[1], device=windows.device) < lengths[:, None]
        if self.extractor.do_normalize:
            mean = windows.sum(1, keepdim=True) / lengths[:, None]
            centred = (windows - mean) * inside
            windows = centred / (centred.square().sum(1, keepdim=True) / lengths[:, None] + 1e-7).sqrt()
        mask = inside.long() if self.extractor.return_attention_mask else None
        hidden = self.model(windows, attention_mask=mask).last_hidden_state  # [B, T, D]
        n_frames = self.model._get_feat_extract_output_lengths(lengths)
        kept = torch.arange(hidden.shape[1], device=hidden.device) < n_frames[:, None]
        means: torch.Tensor = (hidden * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        return means
