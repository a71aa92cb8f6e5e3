"""Bag of audio words: an embedding that counts kinds of frames and ignores their order.

Axes: n windows, F frames, M values in a frame, P principal components, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from cochlea_sb.encoders.windowed import WINDOW_FRAMES, WindowEncoder
from cochlea_sb.errors import MissingExtra, UserError
from cochlea_sb.features import audibility, level
from cochlea_sb.machine import progress_bar

if TYPE_CHECKING:
    from cochlea_sb.data.frame_bank import FrameBank

WINDOWS_AT_ONCE = 128  # windows in a block of `fit`


class BagOfAudioWords(WindowEncoder):
    """Histogram of audio words, weighted by inverse document frequency (TF-IDF).

    A frame is centred, projected on principal components, and assigned to the nearest of ``n_words`` k-means centres:
    its word. The embedding of a window counts the words of its frames. This is the first method of "Audio2Vec: an
    exploration of embedding methods to represent an arbitrary segment of audio in a fixed-length vector", with two
    changes. Frames are weighted by `audibility`, so that padding and faint noise do not count. The embedding contains
    the square roots of the counts (Arandjelovic and Zisserman 2012, for SIFT), so that no frequent word dominates it.

    Arguments
    ---------
    silence, hop_frames, range_db, level : as in `WindowEncoder`
    frame_size : int, M
    n_components : int, P, at most M
    n_words : int, V, also the size of the embedding

    Example
    -------
    >>> encoder = BagOfAudioWords(silence=-18.4, n_words=50)
    >>> encoder(torch.randn(2, 500, 64)).shape
    torch.Size([2, 1, 50])
    """

    mean: torch.Tensor
    axes: torch.Tensor
    words: torch.Tensor
    idf: torch.Tensor

    def __init__(
        self,
        silence: float,
        frame_size: int = 64,
        n_components: int = 24,
        n_words: int = 1000,
        hop_frames: int = 48,
        range_db: float | None = 20.0,
        level: Callable[[torch.Tensor], torch.Tensor] = level,
    ) -> None:
        super().__init__(silence, hop_frames, range_db, level)
        if not 1 <= n_components <= frame_size:
            raise UserError(f"n_components is {n_components}: expected 1 to {frame_size}, the size of a frame.")
        self.frame_size, self.n_components, self.n_words = frame_size, n_components, n_words
        self.embedding_size = n_words
        self.register_buffer("mean", torch.zeros(frame_size))
        self.register_buffer("axes", torch.eye(frame_size, n_components))  # [M, P]
        self.register_buffer("words", torch.zeros(n_words, n_components))  # [V, P]
        self.register_buffer("idf", torch.ones(n_words))

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows [n, 96, M] to vectors [n, V]."""
        return self.counts(windows).sqrt() * self.idf

    def counts(self, windows: torch.Tensor) -> torch.Tensor:
        """Count the words of windows [n, 96, M], weighted by `weights`: [n, V]."""
        frames = self.reduced(windows)
        nearness = torch.addmm(-self.words.square().sum(1) / 2, frames.flatten(0, 1), self.words.T)
        words = nearness.max(1).indices.unflatten(0, frames.shape[:2])  # four times as fast as argmax on a CPU
        counts = frames.new_zeros(len(windows), self.embedding_size)
        return counts.scatter_add_(1, words, self.weights(windows))

    def weights(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the weights [n, 96], in [0, 1], of the frames of windows [n, 96, M]."""
        levels = self.level(windows)
        return audibility(levels, levels.amax(1, keepdim=True), least=0.0)

    def reduced(self, windows: torch.Tensor) -> torch.Tensor:
        """Project the frames of windows [n, 96, M] on the principal components: [n, 96, P]."""
        return (self.levelled(windows.float()) - self.mean) @ self.axes

    @torch.no_grad()
    def fit(self, bank: FrameBank, seed: int = 0, passes: int = 3, progress: bool = True) -> None:
        """Learn the components, the words and the inverse document frequencies from the audible frames of a corpus.

        The inverse document frequency of a word is ``log((1 + sounds) / (1 + sounds with the word)) + 1``. Besides the
        bank, the memory contains a few windows and an array of booleans [sounds, V].

        Arguments
        ---------
        bank : FrameBank
        seed : int
        passes : int, number of passes over the corpus that train the words
        progress : bool, show a progress bar

        Raises
        ------
        MissingExtra
            If scikit-learn is missing.
        UserError
            If the corpus has fewer audible frames than ``n_words`` or ``n_components``.
        """
        try:
            from sklearn.cluster import MiniBatchKMeans
            from sklearn.decomposition import IncrementalPCA
        except ImportError as error:
            raise MissingExtra("A bag of audio words", "scikit-learn", "evaluate") from error
        sounds, starts = bank.windows(WINDOW_FRAMES, WINDOW_FRAMES)
        generator = torch.Generator().manual_seed(seed)
        n_words, n_components = self.words.shape
        bar = progress_bar(total=(2 + passes) * len(sounds), desc="Fitting words", unit="window", show=progress)

        def windows() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for block in torch.randperm(len(sounds), generator=generator).to(sounds.device).split(WINDOWS_AT_ONCE):
                crops = bank.crops(sounds[block], starts[block], WINDOW_FRAMES)
                yield sounds[block], crops.to(self.mean.device).float()
                bar.update(len(block))

        def audible_frames(values: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[np.ndarray]:
            """Yield arrays of at least 4 V frames; only the last array may be shorter."""
            piece = []
            for _, block in windows():
                piece.append(values(block)[self.weights(block) > 0].cpu().numpy())
                if sum(map(len, piece)) >= 4 * n_words:
                    yield np.concatenate(piece)
                    piece = []
            if piece:
                yield np.concatenate(piece)

        components = IncrementalPCA(n_components)
        vocabulary = MiniBatchKMeans(n_words, random_state=seed, n_init=1)
        with bar:
            for number, frames in enumerate(audible_frames(self.levelled)):
                if number == 0 and len(frames) < (least := max(n_words, n_components)):
                    raise UserError(
                        f"The corpus has {len(frames)} audible frames: expected at least {least}, one for each word "
                        "and each component; lower n_words or n_components, or add sounds."
                    )
                if len(frames) >= n_components:
                    components.partial_fit(frames)
            self.mean.copy_(torch.from_numpy(components.mean_))
            self.axes.copy_(torch.from_numpy(components.components_.T))
            for _ in range(passes):
                for frames in audible_frames(self.reduced):
                    vocabulary.partial_fit(frames)
            self.words.copy_(torch.from_numpy(vocabulary.cluster_centers_))
            says = torch.zeros(len(bank), n_words, dtype=torch.bool, device=bank.device)
            for owners, block in windows():
                row, word = self.counts(block).nonzero(as_tuple=True)
                says[owners[row.to(owners.device)], word.to(owners.device)] = True
            self.idf.copy_(torch.log((1 + len(bank)) / (1 + says.sum(0))) + 1)
