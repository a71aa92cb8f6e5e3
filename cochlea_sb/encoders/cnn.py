"""A residual network that trains on a laptop. Its embeddings are principal components of what changes over time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cochlea_sb.encoders.windowed import WindowEncoder
from cochlea_sb.errors import UserError

FIT_WINDOWS = 4096  # windows from which the principal components are computed
DEVIATION_FLOOR = 1e-4  # variance that is added to the features, so that the gradient of the square root is finite


class Convolution(nn.Sequential):
    """A convolution and its batch normalisation. In evaluation they are one convolution, a third faster on a CPU."""

    def __init__(self, width: int, out: int, size: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(width, out, size, stride=stride, padding=size // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(out))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        convolution: Any = self[0]
        norm: Any = self[1]
        if norm.training:
            normal: torch.Tensor = norm(convolution(maps))
            return normal
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = (convolution.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        bias = norm.bias - norm.running_mean * scale
        return F.conv2d(maps, weight, bias, convolution.stride, convolution.padding)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, the first with stride 2, and a shortcut that averages 2 x 2 values (He et al. 2016)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(Convolution(width, out, stride=2), nn.ReLU(), Convolution(out, out))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), Convolution(width, out, size=1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(self.inner(maps) + self.shortcut(maps))


class ConvEncoder(WindowEncoder):
    """Residual network on `levelled` windows, with two linear layers: one for training, and one for the embeddings.

    The features of the last block are pooled over time, but not over frequency, because frequency distinguishes a kick
    drum from a hi-hat. In training, a linear layer maps their mean, maximum and standard deviation over time to the
    vector that the head and the loss read (`vectors`). This vector learns to ignore what the deformations change. The
    features before it know more (Chen et al. 2020, SimCLR, section 4.2). So the embeddings are made from the features:
    they are principal components of ``deviation - steady_share * mean``, which `fit_axes` computes without labels. On
    seven tasks, this increased the mean mAP by 0.02 (docs/experiments.md).

    The default sizes give 1.3 M parameters for embeddings, and 67 M multiply-adds per window.

    Arguments
    ---------
    silence, hop_frames, range_db : as in `WindowEncoder`
    n_mels : int, number of mel bands
    channels : list of int, output channels of the first convolution and of each residual block
    embedding_size : int, D
    principal_components : bool, False: the embeddings are the vectors that the loss reads
    steady_share : float, how much the mean over time is subtracted; steady sounds then weigh less in the embedding
    whitening : float, 0: principal components keep their variances; 0.5: all have the same variance

    Example
    -------
    >>> encoder = ConvEncoder(silence=-18.4).eval()
    >>> encoder(torch.randn(2, 500, 64)).shape
    torch.Size([2, 1, 128])
    """

    centre: torch.Tensor
    axes: torch.Tensor

    def __init__(
        self,
        silence: float,
        n_mels: int = 64,
        channels: Sequence[int] = (32, 64, 128, 256),
        embedding_size: int = 128,
        hop_frames: int = 48,
        range_db: float | None = 50.0,
        principal_components: bool = True,
        steady_share: float = 0.2,
        whitening: float = 0.125,
    ) -> None:
        super().__init__(silence, hop_frames, range_db)
        if not channels:
            raise UserError("channels is an empty list: expected the widths of the network, such as [32, 64, 128].")
        self.n_mels, self.channels, self.embedding_size = n_mels, list(channels), embedding_size
        self.principal_components, self.steady_share, self.whitening = principal_components, steady_share, whitening
        self.normalise = nn.BatchNorm1d(n_mels, affine=False)
        first, rows = self.channels[0], -(-n_mels // 2)
        layers: list[nn.Module] = [Convolution(1, first, stride=2), nn.ReLU()]
        for width, out in zip(self.channels[:-1], self.channels[1:], strict=True):
            layers.append(ResidualBlock(width, out))
            rows = -(-rows // 2)
        self.network = nn.Sequential(*layers)
        n_features = self.channels[-1] * rows
        if principal_components and embedding_size > n_features:
            raise UserError(
                f"embedding_size is {embedding_size} and the network has {n_features} features: principal components "
                "can't be more than features; use more channels."
            )
        # The batch normalisation centres the vectors, so that the cosine of unrelated sounds is near 0.
        self.project = nn.Sequential(
            nn.Linear(3 * n_features, embedding_size, bias=False), nn.BatchNorm1d(embedding_size, affine=False)
        )
        if principal_components:
            self.register_buffer("centre", torch.zeros(n_features))
            # `torch.eye` on the device "meta" would import the compiler of PyTorch, which takes more than a second.
            self.register_buffer("axes", torch.zeros(n_features, embedding_size).fill_diagonal_(1))

    def features(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, maximum and standard deviation over time of the last feature maps of windows: each [n, features]."""
        normal = self.normalise(self.levelled(windows).transpose(1, 2))
        # [n, 1, M, T]. With [:, None], the convolutions would not see channels_last, and take twice as long.
        maps = self.network(normal[..., None].movedim(3, 1)).float()  # [n, C, M / 2^k, T / 2^k]
        mean = maps.mean(3, keepdim=True)
        deviation = ((maps - mean).square().mean(3) + DEVIATION_FLOOR).sqrt()  # `var` takes five times as long
        return mean.flatten(1), maps.amax(3).flatten(1), deviation.flatten(1)

    def vectors(self, windows: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.project(torch.cat(self.features(windows), 1))
        return projected

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        if not self.principal_components:
            return self.vectors(windows)
        mean, _, deviation = self.features(windows)
        return (deviation - self.steady_share * mean - self.centre) @ self.axes

    @torch.no_grad()
    def fit_axes(self, draw: Callable[[int], torch.Tensor]) -> None:
        """Compute the principal components from windows of the training, in evaluation mode."""
        if not self.principal_components:
            return
        parts = [self.features(part) for part in draw(FIT_WINDOWS).split(64)]
        rows = torch.cat([deviation - self.steady_share * mean for mean, _, deviation in parts]).cpu().double()
        spread = rows.std(0)
        spread = spread + 1e-3 * spread.std() + 1e-9
        values, axes = torch.linalg.eigh((rows / spread).T.cov())  # in ascending order
        values, axes = (part.flip(-1)[..., : self.embedding_size] for part in (values, axes))
        shares = values / values[0].clamp(min=1e-12)
        # Few or equal windows leave directions without variance. A new sound would be magnified along them.
        scales = torch.where(shares > 1e-6, shares.clamp(min=1e-6) ** -self.whitening, 0.0)
        self.centre.copy_(rows.mean(0))
        self.axes.copy_(axes / spread[:, None] * scales)
