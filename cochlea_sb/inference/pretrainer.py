"""Lets SpeechBrain's ``EncoderClassifier.from_hparams`` load the weights of a cochlea_sb model."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from speechbrain.utils.fetching import fetch
from speechbrain.utils.parameter_transfer import Pretrainer

from cochlea_sb.inference.model_folder import WEIGHTS


class SafetensorsPretrainer(Pretrainer):  # type: ignore[misc]
    """A SpeechBrain `Pretrainer` that reads ``model.safetensors`` into the encoder. ``hyperparams.yaml`` names it."""

    def collect_files(self, default_source: Any = None, **options: Any) -> dict[str, Path]:
        """Find or download the weights. The arguments are SpeechBrain's."""
        self.weights = fetch(WEIGHTS, default_source, savedir=self.collect_in, **options)
        return {"embedding_model": self.weights}

    def load_collected(self) -> None:
        self.loadables["embedding_model"].load_state_dict(load_file(self.weights))
