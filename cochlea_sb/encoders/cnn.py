"""A small convolutional encoder that a laptop trains in minutes."""

import torch
from torch import nn

from cochlea_sb.encoders.windowed import WindowEncoder


class ConvEncoder(WindowEncoder):
    """Strided 3 x 3 convolutions, then mean and maximum over time and frequency, then one linear layer.

    Each window is first levelled: its mean log-mel value is subtracted, so that a gain changes nothing. With the
    default sizes: 0.5 M parameters and 23 M multiply-adds a window of 96 x 64.

    Arguments
    ---------
    silence, hop_frames :
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

    def __init__(self, silence, n_mels=64, channels=(32, 64, 128, 256), embedding_size=128, hop_frames=48):
        super().__init__(silence, hop_frames)
        self.embedding_size = embedding_size
        self.normalise = nn.BatchNorm1d(n_mels, affine=False)
        layers, width = [], 1
        for out in channels:
            layers += [nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        self.convolutions = nn.Sequential(*layers)
        # Centred, so that unrelated sounds are orthogonal rather than all a little alike.
        self.project = nn.Sequential(
            nn.Linear(2 * width, embedding_size, bias=False), nn.BatchNorm1d(embedding_size, affine=False)
        )

    def embed(self, windows):
        """Embed windows: [n, 96, mels] to [n, D]."""
        levelled = windows - windows.mean((1, 2), keepdim=True)
        normal = self.normalise(levelled.transpose(1, 2))[:, None]  # [n, 1, M, T]
        maps = self.convolutions(normal.contiguous(memory_format=torch.channels_last))  # [n, C, M', T']
        pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
        return self.project(pooled)
