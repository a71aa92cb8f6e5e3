"""A `SoundEncoder` for users of SpeechBrain."""

import os
from pathlib import Path
from typing import Any

from speechbrain.inference.classifiers import EncoderClassifier
from torch import nn

from cochlea_sb.encoders.windowed import WindowEncoder
from cochlea_sb.errors import UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.inference.sound_encoder import SHIPPED, SoundEncoder, load_sound_encoder, locate
from cochlea_sb.machine import check_device


class AudioEncoder(SoundEncoder, EncoderClassifier):  # type: ignore[misc]
    """A SpeechBrain `EncoderClassifier` that encodes sounds of any audio format. Load an encoder with `from_hparams`.

    ``EncoderClassifier.from_hparams`` of SpeechBrain loads the same models, and ``encode_batch`` then returns the same
    numbers. The inherited `classify_batch`, `classify_file` and `__call__` fail, because the models have no classifier.

    Example
    -------
    >>> import torch
    >>> encoder = AudioEncoder.from_hparams()
    >>> encoder.encode_batch(torch.randn(2, 16000)).shape
    torch.Size([2, 1, 128])
    """

    def __init__(
        self,
        modules: dict[str, nn.Module] | None = None,
        hparams: dict[str, Any] | None = None,
        run_opts: Any = None,
        freeze_params: bool = True,
    ) -> None:
        EncoderClassifier.__init__(self, modules, hparams, run_opts, freeze_params)

    @classmethod
    def from_hparams(
        cls,
        source: str | os.PathLike[str] = SHIPPED,
        savedir: str | Path | None = None,
        run_opts: dict[str, Any] | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> "AudioEncoder":
        """Load a model.

        Arguments
        ---------
        source : str or Path
            A results folder (with ``config.json`` and ``model.safetensors``), or ``user/name`` or
            ``user/name@revision`` on the Hugging Face Hub. By default, the model that comes with the package.
        savedir : str or Path, optional, folder for downloaded files, by default the cache of the Hub
        run_opts : dict, optional, SpeechBrain's run options, such as ``{"device": "cuda"}``
        revision : str, optional, branch, tag or commit of a model on the Hub
        trust_remote_code : bool
            Load ``hyperparams.yaml`` like SpeechBrain, which can run any code. By default, no code of the model runs.
        **kwargs : further arguments of SpeechBrain's ``Pretrained.from_hparams``, if ``trust_remote_code`` is True

        Returns
        -------
        AudioEncoder

        Raises
        ------
        UserError
            If the folder holds no model, the model is damaged, names classes from outside cochlea_sb or can't be
            downloaded, or the device can't be used.
        TypeError
            If ``**kwargs`` are given and ``trust_remote_code`` is False.
        """
        device = (run_opts or {}).get("device")
        check_device(device)
        if not trust_remote_code:
            if kwargs:
                raise TypeError(f"from_hparams got '{next(iter(kwargs))}', which needs trust_remote_code=True.")
            return cls._of(load_sound_encoder(source, savedir, device, revision), run_opts)
        if run_opts and device == "cuda":
            run_opts = run_opts | {"device": "cuda:0"}  # SpeechBrain warns if the GPU has no number
        place = locate(source, revision)
        kwargs |= {"revision": place.revision} if place.revision else {}
        encoder: AudioEncoder = super().from_hparams(place.path, savedir=savedir, run_opts=run_opts, **kwargs)
        encoder.source, encoder.revision = place.source, place.revision
        return encoder

    @classmethod
    def _of(cls, encoder: SoundEncoder, run_opts: dict[str, Any] | None = None) -> "AudioEncoder":
        """Make an encoder with the modules of another one, on the same device."""
        modules = dict(encoder.mods.items())
        hparams = {"sample_rate": encoder.sample_rate, "modules": modules, **modules}
        found = cls(modules, hparams, (run_opts or {}) | {"device": encoder.device})
        found.source, found.revision = encoder.source, encoder.revision
        return found


def copy_weights(source: str | os.PathLike[str], front_end: FrontEnd, encoder: WindowEncoder) -> None:
    """Copy the weights of the model ``source`` into an encoder; raises a UserError if its settings differ."""
    found = load_sound_encoder(source, device="cpu")
    theirs, features = found.mods.embedding_model, found.mods.compute_features
    if (type(theirs), theirs.settings()) != (type(encoder), encoder.settings()) or (
        (type(features), features.settings()) != (type(front_end), front_end.settings())
    ):
        raise UserError(f"The model '{source}' has other settings or another kind of encoder than the recipe.")
    encoder.load_state_dict(theirs.state_dict())
