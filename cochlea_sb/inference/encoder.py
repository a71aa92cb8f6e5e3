"""What a library needs of an encoder, and what follows from it: files, streams and batches of sounds to embeddings.

Axes: B windows, D embedding dimensions.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cochlea_sb.audio import AudioSource, read_audio, stream_audio
from cochlea_sb.encoders.windowed import window_weights
from cochlea_sb.errors import AudioError, EncoderError, UserError
from cochlea_sb.features import audibility
from cochlea_sb.inference.encoder_code import code_of
from cochlea_sb.inference.read_ahead import in_batches, read_ahead
from cochlea_sb.inference.streaming import encode_stream
from cochlea_sb.inference.waveform_windows import WaveformWindows
from cochlea_sb.machine import progress_bar

BATCH_SECONDS = 600  # of sound in one batch, to bound memory
AT_ONCE_SECONDS = {"cpu": 64, "accelerator": 1024}  # of windows in one call of `Encoder.embed`
SHORTEST_HOP, LONGEST_HOP = 0.001, 1_000_000  # seconds
MOST = {"sample_rate": 384_000, "window_seconds": 600, "embedding_size": 1 << 16}
LOUDEST = 1e12  # full scale is 1; the energies of much larger samples overflow float32


class Encoder(ABC):
    """Base class of encoders. A subclass gives the attributes, `embed` and `fingerprint`; all else is built on them.

    `CallableEncoder` makes an encoder of a function. `load_encoder` loads one from a folder or from the Hub.

    Attributes
    ----------
    sample_rate : int, of the waveforms that the encoder expects, in Hz
    window_seconds : float, length of a window
    embedding_size : int, number of dimensions of the embeddings
    hop_seconds : float or None, default time between the starts of two windows; None means half a window
    device : str, where windows are put before `embed` is called
    source : str or None, where `load_encoder` found the encoder, or a name of your own; messages show it
    revision : str or None, the commit of an encoder on the Hub

    Example
    -------
    >>> class Loudness(Encoder):
    ...     sample_rate, window_seconds, embedding_size = 16000, 0.5, 2
    ...     def embed(self, windows, lengths):
    ...         return torch.stack([windows.abs().amax(1), windows.square().mean(1)], 1)
    ...     def fingerprint(self):
    ...         return "loudness 1"
    >>> Loudness().encode_waveforms([torch.ones(8000), torch.randn(24000)]).shape
    torch.Size([2, 2])
    """

    sample_rate: int
    window_seconds: float
    embedding_size: int
    hop_seconds: float | None = None
    device: str = "cpu"
    source: str | None = None
    revision: str | None = None
    _loadable = False  # whether `load_encoder` can load encoders of this class again from their `source`

    @abstractmethod
    def embed(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embed windows. A subclass implements this.

        Arguments
        ---------
        windows : torch.Tensor [B, samples], float32 in [-1, 1], ``window_seconds`` long, on ``device``
            The last window of a sound may reach beyond the sound: there it is 0.
        lengths : torch.Tensor [B], int64, number of samples of each window that are inside its sound, at least 1

        Returns
        -------
        torch.Tensor [B, D], of any norm; the embedding of a window must not depend on the other windows
        """

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        """Embed texts into the space of the sounds. A subclass may implement this, if its model can (as CLAP can).

        Arguments
        ---------
        texts : list of str

        Returns
        -------
        torch.Tensor [texts, D], of any norm

        Raises
        ------
        UserError
            If the encoder takes no text.
        """
        raise UserError(
            f"The encoder '{self._name}' takes no text: search with a sound, or index the sounds with a CLAP model, "
            "such as --model transformers:laion/clap-htsat-unfused."
        )

    @abstractmethod
    def fingerprint(self) -> str:
        """Tell encoders apart. A subclass implements this.

        Returns
        -------
        str, the same for two encoders only if they compute the same embeddings
        """

    @property
    def _name(self) -> str:
        return self.source or type(self).__name__

    @property
    def takes_text(self) -> bool:
        """bool: whether the encoder can embed texts."""
        return type(self).embed_text is not Encoder.embed_text

    @property
    def frame_samples(self) -> int:
        """int: number of samples to which a hop is rounded."""
        return 1

    @property
    def frame_seconds(self) -> float:
        """float: time to which a hop is rounded, in seconds."""
        return self.frame_samples / self.sample_rate

    @property
    def window_samples(self) -> int:
        """int: number of samples on which the embedding of a window depends."""
        return round(self.window_seconds * self.sample_rate)

    def identity(self) -> dict[str, Any]:
        """Identify the encoder. Encoders with the same fingerprint compute the same embeddings.

        Returns
        -------
        dict
            ``source``, from which the encoder was loaded, or None, or ``python:NAME`` of an encoder in Python;
            ``revision``, the commit of a model on the Hub, or None; ``fingerprint``, such as the SHA-256 of weights and
            settings; ``text``, True if it takes text.

        Raises
        ------
        EncoderError
            If the sample rate, window, hop or embedding size is out of range, or `fingerprint` fails or gives no text.
        """
        self._check()
        with code_of(self._name):
            fingerprint: object = self.fingerprint()
        if not isinstance(fingerprint, str) or not fingerprint:
            raise EncoderError(f"The fingerprint of the encoder '{self._name}' is {fingerprint!r}: expected a str.")
        in_python = not self._loadable and not self._name.startswith("python:")
        source = f"python:{self._name}" if in_python else self.source
        text = {"text": True} if self.takes_text else {}
        return {"source": source, "revision": self.revision, "fingerprint": fingerprint, **text}

    def _check(self) -> None:
        """Raise an `EncoderError` if the sample rate, the window, the embedding size or the hop is out of range."""
        for what, most in MOST.items():
            with code_of(self._name):
                number = getattr(self, what, None)
            kind = "a float" if what == "window_seconds" else "an int"
            right = isinstance(number, Real if kind == "a float" else Integral)
            if number is None or not right or isinstance(number, bool) or not 0 < number <= most:
                raise EncoderError(
                    f"The encoder '{self._name}' is wrong: {what} is {number!r}, expected {kind} above 0 and at most "
                    f"{most:,}."
                )
        try:
            self.hop_frames()
        except UserError as error:
            raise EncoderError(f"The encoder '{self._name}' is wrong: {error}") from error

    def hop_frames(self, hop_seconds: float | None = None) -> int:
        """Convert a hop from seconds to multiples of `frame_seconds`.

        Arguments
        ---------
        hop_seconds : float, less than 1,000,000, and at least 1 frame after rounding; by default, the encoder's hop

        Returns
        -------
        int, at least 1

        Raises
        ------
        UserError
            If ``hop_seconds`` is out of range.
        """
        if hop_seconds is None:
            hop_seconds = self.window_seconds / 2 if self.hop_seconds is None else self.hop_seconds
        is_number = isinstance(hop_seconds, Real) and not isinstance(hop_seconds, bool)
        in_range = is_number and SHORTEST_HOP <= hop_seconds < LONGEST_HOP
        hop = round(float(hop_seconds) / self.frame_seconds) if in_range else 0
        if hop < 1:
            shortest = max(self.frame_seconds, SHORTEST_HOP)
            bounds = f"at least {shortest} s, and less than {LONGEST_HOP:,} s"
            raise UserError(f"hop_seconds is {hop_seconds!r}: expected {bounds}.")
        return hop

    @torch.inference_mode()
    def encode_text(self, text: str) -> torch.Tensor:
        """Encode a text.

        Arguments
        ---------
        text : str, such as ``rain on a tin roof``

        Returns
        -------
        torch.Tensor [D], float32, unit norm, on the encoder's device

        Raises
        ------
        UserError
            If the encoder takes no text, or the text is empty.
        """
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"The text is {text!r}: expected words that describe a sound.")
        with code_of(self._name):
            return self._normalised(self.embed_text([text]), 1)[0]

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
        return self.encode_waveform(wav)

    def encode_waveform(self, wav: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Encode a waveform as the mean of its windows. Errors: see `encode_waveforms`.

        Arguments
        ---------
        wav : torch.Tensor or np.ndarray [samples], float in [-1, 1], at the encoder's sample rate

        Returns
        -------
        torch.Tensor [D], float32, unit norm, on the encoder's device
        """
        return self.encode_waveforms([wav])[0].to(self.device)

    @torch.inference_mode()
    def encode_windows(self, path: AudioSource, hop_seconds: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode each window of a file of any length. Errors: `cochlea_sb.audio.read_audio`, `hop_frames`.

        Arguments
        ---------
        path : str, Path, or any other source that `cochlea_sb.audio.read_audio` takes
        hop_seconds : float, optional, time between the starts of two windows, as in `hop_frames`

        Returns
        -------
        embeddings : torch.Tensor [windows, D], float32, unit norm, on the encoder's device
        start_seconds : torch.Tensor [windows], float64; the last window may reach beyond the sound, into silence
        """
        embeddings, _ = encode_stream(self, stream_audio(path, self.sample_rate), hop_seconds)
        starts = torch.arange(len(embeddings), dtype=torch.float64) * self.hop_frames(hop_seconds) * self.frame_seconds
        return embeddings, starts

    @torch.inference_mode()
    def encode_waveform_windows(
        self, wavs: Sequence[np.ndarray], hop_seconds: float | None = None
    ) -> list[torch.Tensor]:
        """Encode each window of waveforms of any lengths. All must fit in memory together. Errors: see `hop_frames`.

        Arguments
        ---------
        wavs : list of np.ndarray [samples], float32 in [-1, 1], at the encoder's sample rate
        hop_seconds : float, optional, time between the starts of two windows, as in `hop_frames`

        Returns
        -------
        list of torch.Tensor [windows, D], float32, unit norm, on the encoder's device, one for each waveform
        """
        hop = self.hop_frames(hop_seconds) * self.frame_samples
        if not len(wavs):
            return []
        windows = WaveformWindows(wavs, self.window_samples, hop)
        vectors = torch.cat([self._embedded(*block) for block in windows.blocks(self._at_once)])
        return list(vectors.split(windows.counts.tolist()))

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
        >>> from cochlea_sb import load_encoder
        >>> load_encoder().encode_waveforms([torch.randn(16000), torch.randn(24000)]).shape
        torch.Size([2, 128])
        """

        def tensors() -> Iterator[torch.Tensor]:
            for wav in (to_waveforms(wav, "A waveform") for wav in wavs):
                if wav.ndim != 1 or not len(wav):
                    raise UserError(f"A waveform has shape {tuple(wav.shape)}: expected [samples], at least 1.")
                yield wav

        vectors = [torch.empty(0, self.embedding_size)]
        vectors += [self._means(batch).cpu() for batch in in_batches(tensors(), BATCH_SECONDS * self.sample_rate)]
        return torch.cat(vectors)

    def _means(self, wavs: list[torch.Tensor]) -> torch.Tensor:
        """Average the windows of each waveform, weighted as in `WindowEncoder.forward`: [waveforms, D], unit norm."""
        hop = self.hop_frames() * self.frame_samples
        windows = WaveformWindows(wavs, self.window_samples, hop)
        vectors, peaks = [], []
        for block, lengths in windows.blocks(self._at_once):
            vectors.append(self._embedded(block, lengths).cpu())
            peaks.append(peak_levels(block, self.sample_rate))
        sounds, peak = windows.sounds, torch.cat(peaks)
        loudest = torch.full((len(wavs),), -torch.inf).scatter_reduce(0, sounds, peak, "amax")[sounds]
        weights = window_weights(windows.lengths[sounds], windows.starts, hop, self.window_samples)
        weights = weights * audibility(peak, loudest)
        sums = torch.zeros(len(wavs), self.embedding_size)
        return F.normalize(sums.index_add_(0, sounds, torch.cat(vectors) * weights[:, None]), dim=-1)

    @property
    def _at_once(self) -> int:
        """int: number of windows in a call of `embed`."""
        seconds = AT_ONCE_SECONDS["cpu" if self.device == "cpu" else "accelerator"]
        return max(1, int(seconds / self.window_seconds))

    def _embedded(self, windows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        with code_of(self._name):  # embeddings of an odd type or device fail in `_normalised`
            return self._normalised(self.embed(windows.to(self.device), lengths.to(self.device)), len(windows))

    def _normalised(self, found: Any, count: int) -> torch.Tensor:
        """Scale embeddings to unit norm; raises an EncoderError if they are no array of the shape [count, D]."""
        is_array = isinstance(found, np.ndarray) and found.dtype.kind in "fiub"
        is_array = is_array or (isinstance(found, torch.Tensor) and not found.is_complex())
        if not is_array or found.shape != (count, self.embedding_size):
            given = f"embeddings of shape {list(found.shape)}" if is_array else f"a {type(found).__name__}"
            raise EncoderError(
                f"The encoder '{self._name}' gave {given}: expected an array {[count, self.embedding_size]}, one row "
                "for each window."
            )
        vectors = torch.as_tensor(found)
        return F.normalize(vectors.to(self.device).float(), dim=-1)


def peak_levels(windows: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """The level of the loudest 10 ms of each window [B, samples], the log of its energy: [B]."""
    energies = F.avg_pool1d(windows.square()[:, None], max(1, min(sample_rate // 100, windows.shape[1])))
    return energies.amax((1, 2)).clamp(min=1e-10).log()


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
