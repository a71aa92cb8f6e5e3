"""Encode the windows of a recording of any length piece by piece, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from cochlea_sb.inference.encoder import Encoder

PIECE_SECONDS = 60


def encode_stream(
    encoder: Encoder, blocks: Iterable[np.ndarray], hop_seconds: float | None
) -> tuple[torch.Tensor, float]:
    """Encode a waveform that comes in blocks, such as those of `cochlea_sb.audio.stream_audio`.

    Returns the vectors of all windows, [windows, D] on the encoder's device, and the length in seconds. The vectors are
    those that `Encoder.encode_waveform_windows` computes from the whole waveform.
    """
    hop = encoder.hop_frames(hop_seconds) * encoder.frame_samples
    n_windows = max(1, round(PIECE_SECONDS * encoder.sample_rate / hop))
    step, size = n_windows * hop, (n_windows - 1) * hop + encoder.window_samples
    vectors, n_vectors, n_samples = torch.empty(0, encoder.embedding_size, device=encoder.device), 0, 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal n_samples
        for block in ahead(iter(blocks)):
            n_samples += len(block)
            yield block

    for piece, is_last in pieces(counted(), step, size):
        found = encoder.encode_waveform_windows([piece], hop_seconds)[0]
        found = found if is_last else found[:n_windows]
        if n_vectors + len(found) > len(vectors):  # one tensor that grows: many small ones would fragment the memory
            vectors, old = found.new_empty(n_vectors * 5 // 4 + len(found), found.shape[1]), vectors
            vectors[:n_vectors] = old[:n_vectors]
        vectors[n_vectors : n_vectors + len(found)] = found
        n_vectors += len(found)
    return vectors[:n_vectors], n_samples / encoder.sample_rate


def pieces(blocks: Iterator[np.ndarray], step: int, size: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Cut a waveform into pieces of ``size`` samples, one every ``step`` samples, and the rest (marked True)."""
    held, n_held, skip = [np.empty(0, np.float32)], 0, 0
    for block in blocks:
        block, skip = block[skip:], max(0, skip - len(block))
        held.append(block)
        n_held += len(block)
        if n_held > size:
            waveform = np.concatenate(held)
            while len(waveform) > size:
                yield waveform[:size], False
                skip = max(0, step - len(waveform))
                waveform = waveform[step:]
            held, n_held = [waveform], len(waveform)
    rest = np.concatenate(held)
    yield rest if len(rest) else np.zeros(1, np.float32), True


def ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Decode the next block in a thread while the caller uses the last one."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, blocks, None)
        while (block := waiting.result()) is not None:
            waiting = pool.submit(next, blocks, None)
            yield block
