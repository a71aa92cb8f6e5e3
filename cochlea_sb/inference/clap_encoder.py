"""CLAP of transformers: sounds and texts in one space (Wu et al. 2023, arXiv 2211.06687). Axes: B windows, T frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cochlea_sb.errors import UserError
from cochlea_sb.inference.transformers_encoder import TransformersEncoder, building, quiet

FLOOR = 1e-10  # of the mel energies, before they are converted to dB


class ClapEncoder(TransformersEncoder):
    """A `ClapModel`.

    Arguments
    ---------
    model, extractor, folder, device : as in `TransformersEncoder`
    """

    def __init__(self, model: Any, extractor: Any, folder: Path, device: str) -> None:
        super().__init__(model, extractor, folder, device)
        self.embedding_size = int(model.config.projection_dim)
        self.window_seconds = float(extractor.max_length_s)
        self.channels = 4 if model.config.audio_config.enable_fusion else 1
        filters = extractor.mel_filters if extractor.truncation == "fusion" else extractor.mel_filters_slaney
        self.filters = torch.as_tensor(filters, dtype=torch.float32, device=device)  # [bins, mels]
        self.analysis = torch.hann_window(extractor.fft_window_size, device=device)
        self.tokenizer: Any = None

    @torch.inference_mode()
    def embed(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed windows.

        The model mixes parts of a sound that is longer than a window (fusion). Here no sound is, because a longer one
        becomes several windows. `ClapFeatureExtractor` marks a random sound as longer if no sound is.

        Arguments
        ---------
        windows, lengths : torch.Tensor [B, samples] and [B], as in `Encoder.embed`

        Returns
        -------
        torch.Tensor [B, D]
        """
        features = self.features(windows, lengths)
        is_longer = torch.zeros(len(windows), 1, dtype=torch.bool, device=windows.device)
        found: torch.Tensor = self.model.get_audio_features(features, is_longer=is_longer).pooler_output
        return found

    def features(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The features of `ClapFeatureExtractor`, of a batch at once.

        Arguments
        ---------
        windows, lengths : torch.Tensor [B, samples] and [B], as in `Encoder.embed`

        Returns
        -------
        torch.Tensor [B, 1 or, with fusion, 4, T, mels], in dB
        """
        given, size = self.extractor, windows.shape[1]
        if given.padding in ("repeat", "repeatpad"):
            places = torch.arange(size, device=windows.device)
            windows = windows.gather(1, places % lengths[:, None])
            if given.padding == "repeatpad":  # whole repetitions, and then silence
                windows = windows * (places < size // lengths[:, None] * lengths[:, None])
        spectra = torch.stft(
            windows,
            given.fft_window_size,
            given.hop_length,
            window=self.analysis,
            pad_mode="reflect",
            return_complex=True,
        )
        energies = spectra.abs().square().transpose(1, 2) @ self.filters  # [B, T, mels]
        levels = 10 * energies.clamp(min=FLOOR).log10()
        return levels[:, None].expand(-1, self.channels, -1, -1)

    @torch.inference_mode()
    def embed_text(self, texts: list[str]) -> torch.Tensor:
        """Embed texts.

        Arguments
        ---------
        texts : list of str; what is longer than the model can read is cut off

        Returns
        -------
        torch.Tensor [texts, D]

        Raises
        ------
        UserError
            If the folder of the model holds no tokenizer that transformers can load.
        """
        if self.tokenizer is None:
            import transformers

            with building(str(self.folder)), quiet(transformers):
                own = {"trust_remote_code": False, "local_files_only": True}
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **own)
            known, expected = len(tokenizer), self.model.config.text_config.vocab_size
            if known < expected / 2:  # without its files, transformers makes up a tokenizer of a few tokens
                raise UserError(
                    f"The tokenizer in '{self.folder}' knows {known} of {expected} tokens: save the tokenizer of the "
                    "CLAP model into this folder, too."
                )
            self.tokenizer = tokenizer
        positions = self.model.config.text_config.max_position_embeddings - 2  # RoBERTa's begin at 2
        longest = min(self.tokenizer.model_max_length, positions)
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        ids, mask = (tokens[name].to(self.device) for name in ("input_ids", "attention_mask"))
        found: torch.Tensor = self.model.get_text_features(ids, attention_mask=mask).pooler_output
        return found
