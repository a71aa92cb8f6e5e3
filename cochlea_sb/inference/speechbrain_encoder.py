"""Any `EncoderClassifier` of SpeechBrain, such as a speaker model. Loading one can run code of its author."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cochlea_sb.errors import UserError, one_line
from cochlea_sb.inference.encoder import Encoder

WINDOW_SECONDS = 3.0  # the usual length of the parts on which speaker models are trained (ECAPA-TDNN: VoxCeleb recipe)
PARTS = ("compute_features", "mean_var_norm", "embedding_model")  # that give the embeddings; the classifier does not


class SpeechBrainEncoder(Encoder):
    """An `EncoderClassifier` of SpeechBrain as an encoder.

    Arguments
    ---------
    classifier : speechbrain.inference.classifiers.EncoderClassifier
        Its ``hparams.sample_rate`` is the sample rate; without one, that of its ``audio_normalizer``.
    """

    window_seconds = WINDOW_SECONDS
    _loadable = True

    def __init__(self, classifier: Any) -> None:
        self.classifier, self.device = classifier, str(classifier.device)
        rate = getattr(classifier.hparams, "sample_rate", None)
        self.sample_rate = int(classifier.audio_normalizer.sample_rate if rate is None else rate)
        self._fingerprint = self._hashed()  # now, because modules may change some settings in the first call
        silence = torch.zeros(1, self.window_samples, device=self.device)
        self.embedding_size = self.embed(silence, torch.tensor([self.window_samples])).shape[1]

    @classmethod
    def load(cls, path: str, revision: str | None = None, run_opts: dict[str, Any] | None = None) -> SpeechBrainEncoder:
        """Load a model. This can run any code of the author of the model.

        Arguments
        ---------
        path : str, a folder with a ``hyperparams.yaml``, or ``user/name`` on the Hub
        revision : str, optional, branch, tag or commit of a model on the Hub
        run_opts : dict, optional, SpeechBrain's run options, such as ``{"device": "cuda"}``

        Returns
        -------
        SpeechBrainEncoder

        Raises
        ------
        UserError
            If SpeechBrain can't load the model.
        """
        from speechbrain.inference.classifiers import EncoderClassifier

        options = {"revision": revision} if revision else {}
        if Path(path).is_dir():
            options["savedir"] = path  # otherwise links to the files appear in the current folder
        try:
            return cls(EncoderClassifier.from_hparams(path, run_opts=run_opts, **options))
        except Exception as error:  # the yaml can build anything
            raise UserError(
                f"'{path}' can't be loaded as an EncoderClassifier of SpeechBrain "
                f"({type(error).__name__}: {one_line(error)[:300]})."
            ) from error

    @torch.inference_mode()
    def embed(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed windows by ``encode_batch``, which leaves out what is beyond the lengths.

        Arguments
        ---------
        windows, lengths : torch.Tensor [B, samples] and [B], as in `Encoder.embed`

        Returns
        -------
        torch.Tensor [B, D]
        """
        vectors: torch.Tensor = self.classifier.encode_batch(windows, lengths / windows.shape[1])
        return vectors.flatten(1)

    def fingerprint(self) -> str:
        """Tell encoders apart.

        Returns
        -------
        str, the SHA-256 of the weights, and of the names and plain settings of all modules
        """
        return self._fingerprint

    def _hashed(self) -> str:
        digest = hashlib.sha256(f"{self.sample_rate} {self.window_seconds}".encode())
        for part in PARTS:
            add_module(digest, part, self.classifier.mods[part])
        return digest.hexdigest()


def add_module(digest: Any, part: str, module: nn.Module) -> None:
    """Add a module, with all modules in it, to a hash."""
    for name, one in module.named_modules():
        settings = {
            key: value
            for key, value in sorted(vars(one).items())
            if isinstance(value, (int, float, str)) and not key.startswith("_") and "device" not in key
        }
        digest.update(f"{part} {name} {type(one).__qualname__} {settings}".encode())
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
