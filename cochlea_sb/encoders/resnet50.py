"""The encoder of Jansen et al. 2017: ResNet-50."""

import torch
from torch import nn

from cochlea_sb.encoders.windowed import WindowEncoder
from cochlea_sb.errors import MissingExtra


class ResNet50(WindowEncoder):
    """ResNet-50 (He et al. 2015) with average pooling and a linear embedding (Jansen et al. 2017, section 4.1).

    The network is the ResNet-50 of torchvision with one input channel, on `levelled` windows. It has 23.8 M parameters.
    It should run on a GPU, because it needs 0.5 G multiply-adds per window.

    Arguments
    ---------
    silence, hop_frames, range_db : as in `WindowEncoder`
    n_mels : int, number of mel bands
    embedding_size : int, D

    Raises
    ------
    MissingExtra
        If torchvision is missing.

    Example
    -------
    >>> import torch
    >>> encoder = ResNet50(silence=-18.4).eval()
    >>> encoder(torch.randn(2, 96, 64)).shape
    torch.Size([2, 1, 128])
    """

    def __init__(
        self,
        silence: float,
        n_mels: int = 64,
        embedding_size: int = 128,
        hop_frames: int = 48,
        range_db: float | None = 50.0,
    ) -> None:
        try:
            from torchvision.models import resnet50
        except ImportError as error:
            raise MissingExtra("ResNet-50", "torchvision", "resnet") from error
        super().__init__(silence, hop_frames, range_db)
        self.n_mels, self.embedding_size = n_mels, embedding_size
        self.normalise = nn.BatchNorm1d(n_mels, affine=False)
        self.network = resnet50(weights=None, num_classes=embedding_size)
        self.network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)

    def encode(self, windows: torch.Tensor) -> torch.Tensor:
        """Encode windows [n, 96, M] to vectors [n, D]."""
        normal = self.normalise(self.levelled(windows).transpose(1, 2))
        embeddings: torch.Tensor = self.network(normal[:, None])
        return embeddings
