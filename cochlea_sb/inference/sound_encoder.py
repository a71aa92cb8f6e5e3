"""The encoder of cochlea_sb's own models, without SpeechBrain, whose import takes longer than a search.

D stands for the embedding dimensions (128 by default).
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cochlea_sb.audio import AudioSource, read_audio
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import WINDOW_FRAMES, WindowEncoder, encode_bank, encode_windows
from cochlea_sb.errors import UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.hub import names_on_hub
from cochlea_sb.inference.encoder import Encoder, to_waveforms
from cochlea_sb.inference.model_folder import fetch_model, fingerprint, load_model, save_model
from cochlea_sb.machine import check_device

SHIPPED = "cochlea_sb:pretrained"  # the source of the model that comes with the package


class SoundEncoder(Encoder, nn.Module):
    """A model of cochlea_sb. `load_sound_encoder` loads one. An `AudioEncoder` is one, too.

    Arguments
    ---------
    modules : dict of nn.Module
        The front end ``compute_features``, ``mean_var_norm``, and the encoder ``embedding_model``: SpeechBrain's names.
    device : str, optional, by default `likely_device`
    """

    hop_seconds = 0.48
    _loadable = True
    mods: Any  # nn.ModuleDict of the modules
    inference_ctx: Any  # a context in which the modules run: in an `AudioEncoder`, of the precision in the run options

    def __init__(self, modules: dict[str, nn.Module], device: str | None = None) -> None:
        super().__init__()
        device = device or likely_device()
        self.device = "cuda:0" if device == "cuda" else device  # SpeechBrain warns if the GPU has no number
        self.inference_ctx = nullcontext()
        self.mods = nn.ModuleDict(modules).to(self.device).requires_grad_(False).eval()

    @property
    def sample_rate(self) -> int:  # type: ignore[override]
        """int: sample rate of the waveforms that the encoder expects, in Hz."""
        return int(self.mods.compute_features.sample_rate)

    @property
    def frame_samples(self) -> int:
        """int: number of samples between the starts of two frames."""
        return int(self.mods.compute_features.hop)

    @property
    def window_seconds(self) -> float:  # type: ignore[override]
        """float: length of a window, in seconds."""
        return WINDOW_FRAMES * self.frame_seconds

    @property
    def window_samples(self) -> int:
        """int: number of samples on which the embedding of a window depends."""
        return (WINDOW_FRAMES - 1) * self.frame_samples + int(self.mods.compute_features.window)

    @property
    def embedding_size(self) -> int:  # type: ignore[override]
        """int: number of dimensions of the embeddings."""
        return int(self.mods.embedding_model.embedding_size)

    def fingerprint(self) -> str:
        """Tell encoders apart.

        Returns
        -------
        str, the SHA-256 of the weights and of the front end's settings, 64 hexadecimal digits
        """
        return fingerprint(*self._parts())

    def _parts(self) -> tuple[FrontEnd, WindowEncoder]:
        return self.mods.compute_features, self.mods.embedding_model

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model into a folder, from which `from_hparams` can load it.

        Arguments
        ---------
        folder : str or Path, created if it is missing; a model in the folder is replaced
        """
        save_model(folder, *self._parts())

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        revision: str | None = None,
        license: str | None = None,
        data: str | None = None,
        card: str | None = None,
    ) -> str:
        """Publish the model on the Hugging Face Hub, with a card. First log in with ``hf auth login`` or ``HF_TOKEN``.

        ``recipes/push_to_hub.py`` publishes a results folder, with the training and its figures in the card. Raises a
        UserError if an argument is wrong, or the Hub can't be reached or refuses the token or the push.

        Arguments
        ---------
        name : str, ``user/name``, created if it is missing
        private : bool, whether a new repository is private
        revision : str, optional, branch to commit to, by default ``main``
        license : str, optional, identifier of the license, such as ``apache-2.0``
        data : str, optional, description of the training data
        card : str, optional, ``replace`` or ``keep`` an edited card on the Hub; by default, an edited card is an error

        Returns
        -------
        str, web address of the commit
        """
        # Imported late and by name, because `publishing` imports this module.
        push = importlib.import_module("cochlea_sb.publishing.push").push
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "model")
            self.save(folder)
            options = {"license": license, "data": data, "private": private, "revision": revision, "card": card}
            address, _ = push(folder, name, **options)
        return str(address)

    def load_audio(self, path: AudioSource, savedir: str | os.PathLike[str] | None = None) -> torch.Tensor:
        """Decode a file of any format to mono, at the encoder's sample rate. Errors: see `cochlea_sb.audio.read_audio`.

        Arguments
        ---------
        path : str, Path, or any other source that `cochlea_sb.audio.read_audio` takes
        savedir : not used, but part of SpeechBrain's signature

        Returns
        -------
        torch.Tensor [samples], float32, on the encoder's device
        """
        return torch.from_numpy(read_audio(path, self.sample_rate)).to(self.device)

    @torch.inference_mode()
    def encode_batch(
        self, wavs: torch.Tensor | np.ndarray, wav_lens: torch.Tensor | None = None, normalize: bool = False
    ) -> torch.Tensor:
        """Encode waveforms.

        Arguments
        ---------
        wavs : torch.Tensor or np.ndarray [batch, samples] or [samples], float in [-1, 1]
            At the encoder's sample rate (16 kHz by default). Shorter waveforms of a batch are zero-padded at the end.
        wav_lens : torch.Tensor [batch], float in (0, 1], optional, ``length / longest_length`` for each waveform
        normalize : not used, because embeddings have unit norm, but part of SpeechBrain's signature

        Returns
        -------
        torch.Tensor [batch, 1, D], float32, unit norm, on the encoder's device

        Raises
        ------
        UserError
            If ``wavs`` has another shape, no samples, or values that are not finite, or ``wav_lens`` has another shape.
        """
        wavs = to_waveforms(wavs, "wavs")
        if wavs.ndim not in (1, 2) or not wavs.numel():
            raise UserError(f"wavs has shape {tuple(wavs.shape)}: expected [batch, samples] with at least one sample.")
        n_wavs = 1 if wavs.ndim == 1 else len(wavs)
        wav_lens = None if wav_lens is None else to_waveforms(wav_lens, "wav_lens")
        if wav_lens is not None and wav_lens.shape != (n_wavs,):
            raise UserError(f"wav_lens has shape {tuple(wav_lens.shape)}: expected [{n_wavs}], one for each wav.")
        if wav_lens is not None and not ((wav_lens > 0) & (wav_lens < 1.001)).all():  # quotients may be rounded up
            raise UserError(
                f"wav_lens is {wav_lens.tolist()}: expected the parts of the longest wav, above 0 and up to 1."
            )
        wavs = wavs.reshape(n_wavs, -1).to(self.device)
        wav_lens = (torch.ones(n_wavs) if wav_lens is None else wav_lens).to(self.device)
        with self.inference_ctx:
            frames = self.mods.mean_var_norm(self.mods.compute_features(wavs), wav_lens)
            embeddings: torch.Tensor = self.mods.embedding_model(frames, wav_lens)
            return embeddings

    def encode_waveform(self, wav: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Encode a waveform as the mean of its windows. Errors: see `encode_batch`.

        Arguments
        ---------
        wav : torch.Tensor or np.ndarray [samples], float in [-1, 1], at the encoder's sample rate

        Returns
        -------
        torch.Tensor [D], float32, unit norm, on the encoder's device
        """
        return self.encode_batch(wav)[0, 0]

    def embed(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed windows. The methods below do the same from frames, which windows share, and so in less time.

        Arguments
        ---------
        windows, lengths : torch.Tensor [B, samples] and [B], as in `Encoder.embed`

        Returns
        -------
        torch.Tensor [B, D], unit norm
        """
        return self.encode_batch(windows, lengths / windows.shape[1])[:, 0]

    @torch.inference_mode()
    def encode_waveform_windows(
        self, wavs: Sequence[np.ndarray], hop_seconds: float | None = None
    ) -> list[torch.Tensor]:
        """Encode each window of waveforms of any lengths. All must fit in memory together. Errors: see `hop_frames`.

        Arguments
        ---------
        wavs : list of np.ndarray [samples], float32 in [-1, 1], at the encoder's sample rate
        hop_seconds : float, optional, time between the starts of two windows, by default 0.48 s

        Returns
        -------
        list of torch.Tensor [windows, D], float32, unit norm, on the encoder's device, one for each waveform
        """
        hop = self.hop_frames(hop_seconds)
        if not len(wavs):
            return []
        with self.inference_ctx:
            bank = FrameBank.from_waveforms(wavs, self.mods.compute_features, self.device)
            sounds, starts = bank.windows(WINDOW_FRAMES, hop)
            vectors = torch.cat(list(encode_windows(self.mods.embedding_model, bank, sounds, starts)))
        return list(vectors.split(torch.bincount(sounds).tolist()))

    def _means(self, wavs: list[torch.Tensor]) -> torch.Tensor:
        with self.inference_ctx:
            bank = FrameBank.from_waveforms(wavs, self.mods.compute_features, self.device)
            return encode_bank(self.mods.embedding_model, bank)


class Place(NamedTuple):
    """Where a model is: ``path`` is a folder or a name on the Hub, ``source`` the name in `SoundEncoder.identity`."""

    path: str
    is_folder: bool
    source: str
    revision: str | None


def locate(source: str | os.PathLike[str], revision: str | None = None) -> Place:
    """Find out what the ``source`` of a model means: the shipped model, a folder, or a name on the Hub."""
    if source == SHIPPED:
        return Place(str(Path(__file__).parents[1] / "pretrained"), True, SHIPPED, revision)
    path = os.path.expanduser(os.fspath(source))
    if os.path.isdir(path) or not names_on_hub(path):
        return Place(path, True, os.path.realpath(path), revision)
    if revision is None and "@" in path:
        path, _, revision = path.partition("@")
    return Place(path, False, path, revision)


def load_sound_encoder(
    source: str | os.PathLike[str] = SHIPPED,
    savedir: str | Path | None = None,
    device: str | None = None,
    revision: str | None = None,
) -> SoundEncoder:
    """Load a model without SpeechBrain. The arguments and the errors are those of `AudioEncoder.from_hparams`."""
    check_device(device)
    place = locate(source, revision)
    folder, root = (place.path, None) if place.is_folder else fetch_model(place.path, place.revision, savedir)
    encoder = SoundEncoder(load_model(folder, root), device)
    encoder.source = place.source
    encoder.revision = place.revision if place.is_folder else Path(folder).name  # the commit: a branch can change
    return encoder


def likely_device() -> str:
    """The accelerator of this computer, or the CPU; the choice of SpeechBrain's ``infer_device``."""
    if not torch.accelerator.is_available():
        return "cpu"
    device, rank = str(torch.accelerator.current_accelerator()), os.environ.get("LOCAL_RANK")
    return device if rank is None else f"{device}:{rank}"
