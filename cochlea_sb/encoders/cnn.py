"""A small convolutional encoder that trains on a laptop within minutes."""

from collections.abc import Sequence

import torch
from torch import nn

from cochlea_sb.encoders.windowed import WindowEncoder


class ConvEncoder(WindowEncoder):
    """Convolutional network: 3 x 3 convolutions, pooling over time, and one linear layer, on `levelled` windows.

    The pooling concatenates the mean and the maximum over time. It does not pool over frequency, because frequency
    distinguishes a kick drum from a hi-hat. The default sizes give 0.65 M parameters and 23 M multiply-adds per window.

    Arguments
    ---------
    silence, hop_frames, range_db : as in `WindowEncoder`
    n_mels : int, number of mel bands
    channels : list of int, output channels of each convolution, which has stride 2 in time and in frequency
    embedding_size : int, D

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
        # The batch normalisation centres the embeddings, so that the cosine of unrelated sounds is near 0.
        self.project = nn.Sequential(
            nn.Linear(2 * width * rows, embedding_size, bias=False), nn.BatchNorm1d(embedding_size, affine=False)
        )

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows [n, 96, M] to vectors [n, D]."""
        normal = self.normalise(self.levelled(windows).transpose(1, 2))[:, None]  # [n, 1, M, T]
        maps = self.convolutions(normal.contiguous(memory_format=torch.channels_last))  # [n, C, M', T']
        pooled = torch.cat([maps.mean(3), maps.amax(3)], dim=1)  # [n, 2 C, M']
        embeddings: torch.Tensor = self.project(pooled.flatten(1))
        return embeddings
