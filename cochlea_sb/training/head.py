"""The head between the encoder and the loss. Only training uses it."""

from torch import nn


class ProjectionHead(nn.Sequential):
    """Two linear layers, [n, embedding_size] to [n, output_size] (Chen et al. 2020, SimCLR, section 4.2).

    The loss pushes apart even similar sounds, and a search should find similar sounds. The head therefore keeps the
    loss away from the encoder.

    Example
    -------
    >>> import torch
    >>> ProjectionHead()(torch.randn(8, 128)).shape
    torch.Size([8, 128])
    """

    def __init__(self, embedding_size: int = 128, hidden_size: int = 256, output_size: int = 128) -> None:
        super().__init__(
            nn.Linear(embedding_size, hidden_size, bias=False),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, output_size),
        )
