"""A small convolutional encoder that a laptop trains in minutes."""

from collections.abc import Sequence

import torch
from torch import nn

from cochlea_sb.encoders.windowed import WindowEncoder


class ConvEncoder(WindowEncoder):
    """Strided 3 x 3 convolutions, then mean and maximum over time, then one linear layer.

    Each window is first `levelled`. What is pooled over time alone keeps its place in frequency, by which a kick drum
    differs from a hi-hat and one rain from another. With the default sizes: 0.65 M parameters and 23 M multiply-adds a
    window of 96 x 64.

    Arguments
    ---------
    silence, hop_frames, range_db :
        As in `WindowEncoder`.
    n_mels : int
        Number of mel bands.
    channels : list of int
        Output channels of the convolutions; each halves time and frequency.
    embedding_size : int
        D.

    Example
    -------
    >>> encoder = ConvEncoder(silence=-18.4).eval()
    >>> encoder(torch.randn(2, 500, 64)).shape
    torch.Size([2, 1, 128])
    """

    def __init__(
        self,
        silence: float,
        n_mels: int = 64,
        channels: Sequence[int] = (32, 64, 128, 256),
        embedding_size: int = 128,
        hop_frames: int = 48,
        range_db: float | None = 50.0,
    ) -> None:
        super().__init__(silence, hop_frames, range_db)
        self.n_mels, self.channels, self.embedding_size = n_mels, list(channels), embedding_size
        self.normalise = nn.BatchNorm1d(n_mels, affine=False)
        layers: list[nn.Module] = []
        width, rows = 1, n_mels
        for out in channels:
            layers += [nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            width, rows = out, -(-rows // 2)
        self.convolutions = nn.Sequential(*layers)
        # Centred, so that unrelated sounds are orthogonal rather than all a little alike.
        self.project = nn.Sequential(
            nn.Linear(2 * width * rows, embedding_size, bias=False), nn.BatchNorm1d(embedding_size, affine=False)
        )

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Embed windows: [n, 96, mels] to [n, D]."""
        normal = self.normalise(self.levelled(windows).transpose(1, 2))[:, None]  # [n, 1, M, T]
        maps = self.convolutions(normal.contiguous(memory_format=torch.channels_last))  # [n, C, M', T']
        pooled = torch.cat([maps.mean(3), maps.amax(3)], dim=1)  # [n, 2 C, M']
        embeddings: torch.Tensor = self.project(pooled.flatten(1))
        return embeddings
