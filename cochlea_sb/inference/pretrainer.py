"""How SpeechBrain's own ``EncoderClassifier.from_hparams`` gets the weights of a model of ours."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from speechbrain.utils.fetching import fetch
from speechbrain.utils.parameter_transfer import Pretrainer

from cochlea_sb.inference.model_folder import WEIGHTS


class SafetensorsPretrainer(Pretrainer):  # type: ignore[misc]
    """SpeechBrain's `Pretrainer` for ``model.safetensors``, so that a folder needs no second copy of its weights.

    ``hyperparams.yaml`` names it, with the encoder as its loadable ``embedding_model``.
    """

    def collect_files(self, default_source: Any = None, **options: Any) -> dict[str, Path]:
        """Find the weights in a folder, or download them; arguments as in SpeechBrain."""
        self.weights = fetch(WEIGHTS, default_source, savedir=self.collect_in, **options)
        return {"embedding_model": self.weights}

    def load_collected(self) -> None:
        """Load the weights that `collect_files` has found."""
        self.loadables["embedding_model"].load_state_dict(load_file(self.weights))
