"""What all deformations share: parameters are drawn, then applied.

A deformation changes a sound and keeps its class. It is an ``nn.Module`` without parameters over mel energies (see
`cochlea_sb.augment.energies`). Each example of a batch gets a draw of its own, on the device of the batch, and inputs
are never changed. One draw can be logged, applied again, or rendered on the waveform (recipes/listen.py).

Axes: B batch, T frames, M mel bands.
"""

from typing import Generic, TypeVar

import torch
from torch import nn

Draw = TypeVar("Draw")


class Deformation(nn.Module, Generic[Draw]):
    """Base of all deformations. A subclass implements `draw` and `deform`, and names its ``strengths``."""

    strengths: tuple[str, ...] = ()  # attributes that tell how strong the deformation is

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> Draw:
        """Draw the parameters.

        Arguments
        ---------
        energies : torch.Tensor [batch, frames, mels]
            Only their shape and device count.
        generator : torch.Generator, optional
            On the same device; makes the draw repeatable.

        Returns
        -------
        NamedTuple of torch.Tensor, one row for each example
        """
        raise NotImplementedError

    def deform(self, energies: torch.Tensor, draw: Draw, others: torch.Tensor | None = None) -> torch.Tensor:
        """Deform by the parameters that were drawn.

        Arguments
        ---------
        energies : torch.Tensor [batch, frames, mels], float32, at least 0
        draw :
            From `draw`.
        others : torch.Tensor [batch, frames, mels], optional
            Energies of another sound for each example, for `Mixture`.

        Returns
        -------
        torch.Tensor [batch, frames, mels], float32
        """
        raise NotImplementedError

    def forward(
        self, energies: torch.Tensor, others: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """`deform` a fresh `draw`; arguments as there."""
        return self.deform(energies, self.draw(energies, generator), others)

    def extra_repr(self) -> str:
        """The strengths, which ``repr`` shows."""
        return ", ".join(f"{name}={getattr(self, name):g}" for name in self.strengths)
