"""A trained encoder, which turns sounds into embeddings, without SpeechBrain, whose import takes longer than a search.

D stands for the embedding dimensions (128 by default).
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cochlea_sb.audio import AudioSource, read_audio, stream_audio
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import WINDOW_FRAMES, WindowEncoder, encode_bank, encode_windows
from cochlea_sb.errors import AudioError, UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.hub import names_on_hub
from cochlea_sb.inference.model_folder import fetch_model, fingerprint, load_model, save_model
from cochlea_sb.inference.read_ahead import in_batches, read_ahead
from cochlea_sb.inference.streaming import encode_stream
from cochlea_sb.machine import check_device, progress_bar

SHIPPED = "cochlea_sb:pretrained"  # the source of the model that comes with the package
BATCH_SECONDS = 600  # of sound in one batch, to bound memory
LONGEST_HOP = 1_000_000  # seconds
LOUDEST = 1e12  # full scale is 1; the energies of much larger samples overflow float32


class SoundEncoder(nn.Module):
    """Encodes sounds of any audio format. `load_encoder` loads one. An `AudioEncoder` is one, too.

    Arguments
    ---------
    modules : dict of nn.Module
        The front end ``compute_features``, ``mean_var_norm``, and the encoder ``embedding_model``: SpeechBrain's names.
    device : str, optional, by default `likely_device`
    """

    device: str
    mods: Any  # nn.ModuleDict of the modules
    inference_ctx: Any  # a context in which the modules run: in an `AudioEncoder`, of the precision in the run options
    source: str  # this and the revision are known of a loaded encoder: see `identity`
    revision: str | None

    def __init__(self, modules: dict[str, nn.Module], device: str | None = None) -> None:
        super().__init__()
        device = device or likely_device()
        self.device = "cuda:0" if device == "cuda" else device  # SpeechBrain warns if the GPU has no number
        self.inference_ctx = nullcontext()
        self.mods = nn.ModuleDict(modules).to(self.device).requires_grad_(False).eval()

    @property
    def sample_rate(self) -> int:
        """int: sample rate of the waveforms that the encoder expects, in Hz."""
        return int(self.mods.compute_features.sample_rate)

    @property
    def frame_seconds(self) -> float:
        """float: time between the starts of two frames, in seconds."""
        return float(self.mods.compute_features.hop / self.sample_rate)

    @property
    def window_seconds(self) -> float:
        """float: length of a window, in seconds."""
        return WINDOW_FRAMES * self.frame_seconds

    @property
    def embedding_size(self) -> int:
        """int: number of dimensions of the embeddings."""
        return int(self.mods.embedding_model.embedding_size)

    def identity(self) -> dict[str, Any]:
        """Identify the encoder. Encoders with the same fingerprint compute the same embeddings.

        Returns
        -------
        dict of str
            ``source``, from which the encoder was loaded, or None; ``revision``, the commit of a model on the Hub, or
            None; ``fingerprint``, the SHA-256 of the weights and of the front end's settings, 64 hexadecimal digits.
        """
        source, revision = getattr(self, "source", None), getattr(self, "revision", None)
        return {"source": source, "revision": revision, "fingerprint": fingerprint(*self._parts())}

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

    def encode_file(
        self, path: AudioSource, start_seconds: float = 0.0, stop_seconds: float | None = None
    ) -> torch.Tensor:
        """Encode a file, or a part of a file, as the mean of its windows. Errors: see `cochlea_sb.audio.read_audio`.

        Arguments
        ---------
        path : str, Path, or any other source that `cochlea_sb.audio.read_audio` takes
        start_seconds, stop_seconds : float, optional, the part to encode, by default the full file

        Returns
        -------
        torch.Tensor [D], float32, unit norm, on the encoder's device
        """
        wav = read_audio(path, self.sample_rate, start_seconds=start_seconds, stop_seconds=stop_seconds)
        return self.encode_batch(torch.from_numpy(wav))[0, 0]

    @torch.inference_mode()
    def encode_windows(self, path: AudioSource, hop_seconds: float = 0.48) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode each window (0.96 s) of a file of any length. Errors: `cochlea_sb.audio.read_audio`, `hop_frames`.

        Arguments
        ---------
        path : str, Path, or any other source that `cochlea_sb.audio.read_audio` takes
        hop_seconds : float, time between the starts of two windows, rounded to whole frames (0.01 s)

        Returns
        -------
        embeddings : torch.Tensor [windows, D], float32, unit norm, on the encoder's device
        start_seconds : torch.Tensor [windows], float64; the last window may reach beyond the sound, into silence
        """
        embeddings, _ = encode_stream(self, stream_audio(path, self.sample_rate), hop_seconds)
        starts = torch.arange(len(embeddings), dtype=torch.float64) * self.hop_frames(hop_seconds) * self.frame_seconds
        return embeddings, starts

    def hop_frames(self, hop_seconds: float) -> int:
        """Convert a hop from seconds to frames.

        Arguments
        ---------
        hop_seconds : float, less than 1,000,000, and at least 1 frame after rounding

        Returns
        -------
        int, at least 1

        Raises
        ------
        UserError
            If ``hop_seconds`` is out of range.
        """
        is_number = isinstance(hop_seconds, Real) and not isinstance(hop_seconds, bool)
        hop = round(float(hop_seconds) / self.frame_seconds) if is_number and 0 < hop_seconds < LONGEST_HOP else 0
        if hop < 1:
            bounds = f"at least one frame, {self.frame_seconds} s, and less than {LONGEST_HOP:,} s"
            raise UserError(f"hop_seconds is {hop_seconds!r}: expected {bounds}.")
        return hop

    @torch.inference_mode()
    def encode_waveform_windows(self, wavs: Sequence[np.ndarray], hop_seconds: float = 0.48) -> list[torch.Tensor]:
        """Encode each window of waveforms of any lengths. All must fit in memory together. Errors: see `hop_frames`.

        Arguments
        ---------
        wavs : list of np.ndarray [samples], float32 in [-1, 1], at the encoder's sample rate
        hop_seconds : float, time between the starts of two windows, rounded to whole frames (0.01 s)

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

    def encode_files(
        self, paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], progress: bool = True
    ) -> tuple[torch.Tensor, dict[str | os.PathLike[str], str]]:
        """Encode many files. Files that can't be read are skipped and reported.

        Arguments
        ---------
        paths : str or Path, or a list of them
        progress : bool, whether to show a progress bar

        Returns
        -------
        embeddings : torch.Tensor [readable files, D], float32, unit norm, on the CPU, in the order of ``paths``
        problems : dict of str, the reason for each path that could not be read

        Raises
        ------
        UserError
            If ``paths`` has another type.
        """
        if isinstance(paths, (bytes, bytearray)) or not isinstance(paths, (str, os.PathLike, Iterable)):
            raise UserError(f"paths is a {type(paths).__name__}: expected the path of a file, or a list of paths.")
        paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        problems: dict[str | os.PathLike[str], str] = {}

        def readable() -> Iterator[torch.Tensor]:
            ahead = read_ahead(self._try_to_read, paths)
            bar = progress_bar(ahead, total=len(paths), show=progress, unit="file", desc="Encoding")
            for path, wav in zip(paths, bar, strict=True):
                if isinstance(wav, AudioError):
                    problems[path] = str(wav)
                else:
                    yield wav

        return self.encode_waveforms(readable()), problems

    def _try_to_read(self, path: str | os.PathLike[str]) -> torch.Tensor | AudioError:
        try:
            return torch.from_numpy(read_audio(path, self.sample_rate))
        except AudioError as problem:
            return problem

    @torch.inference_mode()
    def encode_waveforms(self, wavs: Iterable[torch.Tensor | np.ndarray]) -> torch.Tensor:
        """Encode waveforms of any lengths. Memory holds one batch, which ends at ten minutes of sound.

        Arguments
        ---------
        wavs : iterable of torch.Tensor or np.ndarray [samples], float in [-1, 1], at the encoder's sample rate

        Returns
        -------
        torch.Tensor [waveforms, D], float32, unit norm, on the CPU

        Raises
        ------
        UserError
            If a waveform has another shape, no samples, or values that are not finite.

        Example
        -------
        >>> encoder = load_encoder()
        >>> encoder.encode_waveforms([torch.randn(16000), torch.randn(24000)]).shape
        torch.Size([2, 128])
        """

        def tensors() -> Iterator[torch.Tensor]:
            for wav in (to_waveforms(wav, "A waveform") for wav in wavs):
                if wav.ndim != 1 or not len(wav):
                    raise UserError(f"A waveform has shape {tuple(wav.shape)}: expected [samples], at least 1.")
                yield wav

        vectors = [torch.empty(0, self.embedding_size)]
        for batch in in_batches(tensors(), BATCH_SECONDS * self.sample_rate):
            with self.inference_ctx:
                bank = FrameBank.from_waveforms(batch, self.mods.compute_features, self.device)
                vectors.append(encode_bank(self.mods.embedding_model, bank).cpu())
        return torch.cat(vectors)


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


def load_encoder(
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


def to_waveforms(given: Any, name: str) -> torch.Tensor:
    """Convert numbers to a float32 tensor. Raises a UserError if the numbers or their energies are not finite."""
    try:
        array = None if isinstance(given, torch.Tensor) else np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if given.is_complex() if array is None else array.dtype.kind not in "fiub":
        kind = getattr(given, "dtype", type(given).__name__)
        raise UserError(f"{name} has the type {kind}: expected an array of real numbers, in rows of the same length.")
    with np.errstate(over="ignore"):  # as infinite, it is refused below
        wavs = given.float() if array is None else torch.from_numpy(array.astype(np.float32))
    if not (wavs.abs() <= LOUDEST).all():
        raise UserError(f"{name} holds NaN, infinite or huge values: expected finite numbers, usually in [-1, 1].")
    return wavs
