"""A trained encoder, ready to use: sounds in, embeddings out.

Axes: B batch, S samples, T frames, W windows, M mel bands, D embedding dimensions (128 by default).
"""

import importlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from tqdm import tqdm

from cochlea_sb.audio import AudioSource, read_audio
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import WINDOW_FRAMES, WindowEncoder, encode_bank, encode_windows
from cochlea_sb.errors import AudioError, UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.hub import names_on_hub
from cochlea_sb.inference.model_folder import fetch_model, fingerprint, load_model, save_model
from cochlea_sb.inference.read_ahead import in_batches, read_ahead
from cochlea_sb.machine import check_device

SHIPPED = "cochlea_sb:pretrained"  # names the model that comes with the package
BATCH_SECONDS = 600  # sound in one batch: bounds memory
LONGEST_HOP = 1_000_000  # seconds


class AudioEncoder(EncoderClassifier):  # type: ignore[misc]
    """Encodes sounds: SpeechBrain's `EncoderClassifier` for any audio file. Make one with `from_hparams`.

    Plain ``EncoderClassifier.from_hparams`` loads the same model, and its ``encode_batch`` gives the same numbers. The
    inherited `classify_batch`, `classify_file` and `__call__` need a classifier, which no model here has.

    Example
    -------
    >>> encoder = AudioEncoder.from_hparams()
    >>> encoder.encode_batch(torch.randn(2, 16000)).shape
    torch.Size([2, 1, 128])
    """

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
            ``user/name@revision`` on the Hugging Face Hub; by default the model that comes with the package.
        savedir : str or Path, optional
            Where to keep what is downloaded; by default in the Hub's own cache.
        run_opts : dict, optional
            SpeechBrain's run options, such as ``{"device": "cuda"}``.
        revision : str, optional
            Branch, tag or commit of a model on the Hub.
        trust_remote_code : bool
            Load as SpeechBrain does: ``hyperparams.yaml`` may build any object, and so run code of the model's author.
            By default that file is not read, and the others can hold no code: see `cochlea_sb.inference.model_folder`.
        **kwargs
            Further arguments of SpeechBrain's ``Pretrained.from_hparams``, with ``trust_remote_code=True`` alone.

        Returns
        -------
        AudioEncoder

        Raises
        ------
        UserError
            If the folder holds no model, or a damaged one, or one with classes of its own; if it can't be downloaded;
            or if the device can't be used here.
        TypeError
            For arguments in ``**kwargs`` without ``trust_remote_code=True``.
        """
        check_device((run_opts or {}).get("device"))
        if run_opts and run_opts.get("device") == "cuda":
            run_opts = run_opts | {"device": "cuda:0"}  # SpeechBrain warns of a GPU without a number
        shipped = source == SHIPPED
        source = str(Path(__file__).parents[1] / "pretrained") if shipped else os.path.expanduser(source)
        local = os.path.isdir(source) or not names_on_hub(source)
        if not local and revision is None and "@" in source:
            source, _, revision = source.partition("@")
        if trust_remote_code:
            kwargs |= {"revision": revision} if revision else {}
            encoder: AudioEncoder = super().from_hparams(source, savedir=savedir, run_opts=run_opts, **kwargs)
        elif kwargs:
            raise TypeError(f"from_hparams got '{next(iter(kwargs))}', which needs trust_remote_code=True.")
        else:
            folder, root = (source, None) if local else fetch_model(source, revision, savedir)
            revision = revision if local else Path(folder).name  # the commit, so that libraries find this model again
            hparams = load_model(folder, root)
            encoder = cls(hparams["modules"], hparams, run_opts)
        encoder.source = SHIPPED if shipped else os.path.realpath(source) if local else source
        encoder.revision = revision
        return encoder

    @property
    def sample_rate(self) -> int:
        """int: rate in Hz of the waveforms that the encoder takes."""
        return int(self.mods.compute_features.sample_rate)

    @property
    def frame_seconds(self) -> float:
        """float: distance between frames in seconds."""
        return float(self.mods.compute_features.hop / self.sample_rate)

    @property
    def window_seconds(self) -> float:
        """float: length of a window in seconds."""
        return WINDOW_FRAMES * self.frame_seconds

    @property
    def embedding_size(self) -> int:
        """int: dimensions of the embeddings."""
        return int(self.mods.embedding_model.embedding_size)

    def identity(self) -> dict[str, Any]:
        """Which encoder this is: two with the same fingerprint give the same embeddings.

        Returns
        -------
        dict of str
            ``source`` as it was loaded from, or None; ``revision``, the commit of a model on the Hub, or None;
            ``fingerprint`` of its weights and front end, 64 hexadecimal digits (a SHA-256).
        """
        source, revision = getattr(self, "source", None), getattr(self, "revision", None)
        return {"source": source, "revision": revision, "fingerprint": fingerprint(*self._parts())}

    def _parts(self) -> tuple[FrontEnd, WindowEncoder]:
        return self.mods.compute_features, self.mods.embedding_model

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model into a folder, which `from_hparams` loads again.

        Arguments
        ---------
        folder : str or Path
            Made if it is missing; a model in it is replaced.
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
        """Publish the model on the Hugging Face Hub, with a card. Log in before: ``hf auth login``, or ``HF_TOKEN``.

        ``recipes/push_to_hub.py`` does the same with a results folder, whose card also tells of training and figures.

        Arguments
        ---------
        name : str
            ``user/name``; made if it is not there.
        private : bool
            Make a private repository.
        revision : str, optional
            Branch to commit to; by default ``main``.
        license : str, optional
            Identifier, such as ``apache-2.0``.
        data : str, optional
            The training data, in words.
        card : str, optional
            For a card on the Hub that somebody has edited: ``replace`` or ``keep``; by default the push is refused.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        UserError
            If an argument is wrong, or the Hub can't be reached, does not know your token, or refuses.
        """
        # By name: publishing uses encoders and so lies above them.
        push = importlib.import_module("cochlea_sb.publishing.push").push
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "model")
            self.save(folder)
            options = {"license": license, "data": data, "private": private, "revision": revision, "card": card}
            address, _ = push(folder, name, **options)
        return str(address)

    def load_audio(self, path: AudioSource, savedir: str | os.PathLike[str] | None = None) -> torch.Tensor:
        """Decode a file with `cochlea_sb.audio.read_audio`: any format, channels and rate.

        Arguments
        ---------
        path : str or Path
            Or anything else that `cochlea_sb.audio.read_audio` takes.
        savedir :
            Not used; part of SpeechBrain's signature.

        Returns
        -------
        torch.Tensor [samples], float32, on the encoder's device

        Raises
        ------
        AudioError
            If the file can't be read.
        UserError
            If ``path`` is of another type.
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
            At the encoder's sample rate (16 kHz by default), zero-padded at the end to one length.
        wav_lens : torch.Tensor [batch], float in (0, 1], optional
            Length of each over the longest (SpeechBrain's relative lengths).
        normalize : bool
            Not used, since embeddings have unit norm; part of SpeechBrain's signature.

        Returns
        -------
        torch.Tensor [batch, 1, D], float32, unit norm, on the encoder's device

        Raises
        ------
        UserError
            If ``wavs`` has another shape or no sample, or ``wav_lens`` another length than the batch.
        """
        wavs = torch.as_tensor(wavs)
        if wavs.ndim not in (1, 2) or not wavs.shape[-1]:
            raise UserError(f"wavs has shape {tuple(wavs.shape)}: expected [batch, samples] with at least one sample.")
        n_wavs = 1 if wavs.ndim == 1 else len(wavs)
        wav_lens = None if wav_lens is None else torch.as_tensor(wav_lens)
        if wav_lens is not None and wav_lens.shape != (n_wavs,):
            raise UserError(f"wav_lens has shape {tuple(wav_lens.shape)}: expected [{n_wavs}], one length for each.")
        with self.inference_ctx:
            embeddings: torch.Tensor = super().encode_batch(wavs, wav_lens, normalize=False)
            return embeddings

    def encode_file(
        self, path: AudioSource, start_seconds: float = 0.0, stop_seconds: float | None = None
    ) -> torch.Tensor:
        """Encode one file, or a part of it, as the mean of its windows.

        Arguments
        ---------
        path : str or Path
            Or anything else that `cochlea_sb.audio.read_audio` takes.
        start_seconds, stop_seconds : float, optional
            The part, in seconds; by default the whole file.

        Returns
        -------
        torch.Tensor [D], float32, unit norm, on the encoder's device

        Raises
        ------
        AudioError
            If the file can't be read, or the part is not inside it.
        UserError
            If the part ends before it starts or starts before 0; or if ``path`` is of another type.
        """
        wav = read_audio(path, self.sample_rate, start_seconds=start_seconds, stop_seconds=stop_seconds)
        return self.encode_batch(torch.from_numpy(wav))[0, 0]

    @torch.inference_mode()
    def encode_windows(self, path: AudioSource, hop_seconds: float = 0.48) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode each window of a file.

        Arguments
        ---------
        path : str or Path
            Or anything else that `cochlea_sb.audio.read_audio` takes.
        hop_seconds : float
            Distance between windows of 0.96 s, rounded to whole frames (0.01 s).

        Returns
        -------
        embeddings : torch.Tensor [windows, D], float32, unit norm, on the encoder's device
        start_seconds : torch.Tensor [windows], float64
            Where each window starts, in seconds. The last may reach beyond the end of the sound, into silence.

        Raises
        ------
        AudioError
            If the file can't be read.
        UserError
            If the hop is out of range: see `hop_frames`; or if ``path`` is of another type.
        """
        embeddings = self.encode_waveform_windows([read_audio(path, self.sample_rate)], hop_seconds)[0]
        starts = torch.arange(len(embeddings), dtype=torch.float64) * self.hop_frames(hop_seconds) * self.frame_seconds
        return embeddings, starts

    def hop_frames(self, hop_seconds: float) -> int:
        """Convert seconds to a whole number of frames.

        Arguments
        ---------
        hop_seconds : float
            At least a frame when rounded to whole ones, and less than 1,000,000.

        Returns
        -------
        int
            At least 1.

        Raises
        ------
        UserError
            If it is out of range.
        """
        is_number = isinstance(hop_seconds, Real) and not isinstance(hop_seconds, bool)
        hop = round(float(hop_seconds) / self.frame_seconds) if is_number and 0 < hop_seconds < LONGEST_HOP else 0
        if hop < 1:
            bounds = f"at least one frame, {self.frame_seconds} s, and less than {LONGEST_HOP:,} s"
            raise UserError(f"hop_seconds is {hop_seconds!r}: expected {bounds}.")
        return hop

    @torch.inference_mode()
    def encode_waveform_windows(self, wavs: Sequence[np.ndarray], hop_seconds: float = 0.48) -> list[torch.Tensor]:
        """Encode each window of many sounds of any lengths.

        Arguments
        ---------
        wavs : list of np.ndarray [samples], float32 in [-1, 1]
            At the encoder's sample rate; memory grows with their sum.
        hop_seconds : float
            Distance between windows, rounded to whole frames (0.01 s).

        Returns
        -------
        list of torch.Tensor [windows, D], float32, unit norm, on the encoder's device
            One for each sound, as from `encode_windows`.

        Raises
        ------
        UserError
            If the hop is out of range: see `hop_frames`.
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
        """Encode many files; those that can't be read are skipped and reported.

        Arguments
        ---------
        paths : list of str or Path, or one of them
        progress : bool
            Show a progress bar.

        Returns
        -------
        embeddings : torch.Tensor [readable, D], float32, unit norm, on the CPU
            In the order of ``paths``, without those in ``problems``.
        problems : dict of str
            Reason by path.

        Raises
        ------
        UserError
            If one of ``paths`` is not a path.
        """
        paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        problems: dict[str | os.PathLike[str], str] = {}

        def readable() -> Iterator[torch.Tensor]:
            ahead = read_ahead(self._try_to_read, paths)
            bar = tqdm(ahead, total=len(paths), disable=not progress, unit="file", desc="Encoding")
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
        """Encode waveforms of any lengths.

        Arguments
        ---------
        wavs : iterable of torch.Tensor or np.ndarray [samples], float in [-1, 1]
            At the encoder's sample rate, each of at least one sample. At most ten minutes of sound are held at a time,
            or one longer waveform.

        Returns
        -------
        torch.Tensor [waveforms, D], float32, unit norm, on the CPU

        Raises
        ------
        UserError
            If a waveform has another shape, or no sample.

        Example
        -------
        >>> encoder = AudioEncoder.from_hparams()
        >>> encoder.encode_waveforms([torch.randn(16000), torch.randn(24000)]).shape
        torch.Size([2, 128])
        """

        def tensors() -> Iterator[torch.Tensor]:
            for wav in map(torch.as_tensor, wavs):
                if wav.ndim != 1 or not len(wav):
                    raise UserError(f"A waveform has shape {tuple(wav.shape)}: expected [samples], at least one.")
                yield wav

        vectors = [torch.empty(0, self.embedding_size)]
        for batch in in_batches(tensors(), BATCH_SECONDS * self.sample_rate):
            with self.inference_ctx:
                bank = FrameBank.from_waveforms(batch, self.mods.compute_features, self.device)
                vectors.append(encode_bank(self.mods.embedding_model, bank).cpu())
        return torch.cat(vectors)
