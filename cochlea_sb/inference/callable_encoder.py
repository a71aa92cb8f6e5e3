"""An encoder made of a function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch

from cochlea_sb.errors import UserError
from cochlea_sb.inference.encoder import Encoder
from cochlea_sb.machine import check_device


class CallableEncoder(Encoder):
    """An encoder made of a function that embeds windows. For a function of text, too, write a subclass of `Encoder`.

    Arguments
    ---------
    function : callable
        Takes windows, a torch.Tensor [B, samples], float32 in [-1, 1], ``window_seconds`` long. It gives a
        torch.Tensor or np.ndarray [B, embedding_size], of any norm.
    name : str
        Name and version, such as ``aisfx 0.1.2``. A library compares only this name, and the numbers below, with those
        of its own encoder: change the version whenever the function gives other numbers.
    sample_rate : int, of the windows, in Hz
    window_seconds : float, length of a window
    embedding_size : int
    hop_seconds : float, optional, default time between the starts of two windows, by default half a window
    device : str, of the windows that the function takes

    Raises
    ------
    UserError
        If an argument has a wrong type or is out of range.

    Example
    -------
    >>> def loudness(windows):
    ...     return torch.stack([windows.abs().amax(1), windows.square().mean(1)], 1)
    >>> encoder = CallableEncoder(loudness, name="loudness 1", sample_rate=16000, window_seconds=0.5, embedding_size=2)
    >>> encoder.encode_waveform(torch.randn(24000)).shape
    torch.Size([2])
    """

    def __init__(
        self,
        function: Callable[[torch.Tensor], Any],
        *,
        name: str,
        sample_rate: int,
        window_seconds: float,
        embedding_size: int,
        hop_seconds: float | None = None,
        device: str = "cpu",
    ) -> None:
        if not callable(function) or not isinstance(name, str) or not name.strip():
            raise UserError(
                f"The function is {function!r} and its name {name!r}: expected a function, and its name and version."
            )
        check_device(device)
        self.function, self.name, self.device = function, name, device
        self.source = f"python:{name}"
        self.sample_rate, self.window_seconds, self.embedding_size = sample_rate, window_seconds, embedding_size
        self.hop_seconds = hop_seconds
        self._check()

    def embed(self, windows: torch.Tensor, lengths: torch.Tensor) -> Any:
        """Call the function.

        Arguments
        ---------
        windows, lengths : torch.Tensor [B, samples] and [B], as in `Encoder.embed`

        Returns
        -------
        torch.Tensor or np.ndarray [B, D]
        """
        return self.function(windows)

    def fingerprint(self) -> str:
        """Tell encoders apart.

        Returns
        -------
        str, the SHA-256 of the name and the numbers that were given
        """
        facts = [self.name, self.sample_rate, float(self.window_seconds), self.embedding_size]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
