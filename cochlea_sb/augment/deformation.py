"""The base class of deformations, the augmentations of training.

A deformation changes a sound but keeps its class. `Deformation.draw` draws random parameters for each example of a
batch. `Deformation.deform` applies these parameters to mel energies (see `cochlea_sb.augment.energies`), and does not
change its input. A draw can be applied twice, or to a waveform, as recipes/listen.py does.

Axes: B batch, T frames, M mel bands.
"""

from typing import Generic, TypeVar

import torch
from torch import nn

Draw = TypeVar("Draw")


class Deformation(nn.Module, Generic[Draw]):
    """Base class of deformations. A subclass implements `draw` and `deform`, and sets ``strengths``."""

    strengths: tuple[str, ...] = ()  # names of the attributes that set the range of the draws

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> Draw:
        """Draw the parameters: a NamedTuple of tensors, whose first axis is the batch.

        Arguments
        ---------
        energies : torch.Tensor [batch, frames, mels], of which only the shape and the device are used
        generator : torch.Generator, optional, on the device of ``energies``
        """
        raise NotImplementedError

    def deform(self, energies: torch.Tensor, draw: Draw, others: torch.Tensor | None = None) -> torch.Tensor:
        """Return the deformed energies, float32 [batch, frames, mels].

        Arguments
        ---------
        energies : torch.Tensor [batch, frames, mels], float32, at least 0
        draw : the result of `draw`
        others : torch.Tensor [batch, frames, mels], optional, a second sound for each example, which `Mixture` adds
        """
        raise NotImplementedError

    def weaken(self, draw: Draw, strength: torch.Tensor) -> Draw:
        """Scale the parameters of each example by ``strength`` [B], in [0, 1]. By default, nothing is scaled."""
        return draw

    def take(self, draw: Draw, first: int, step: int) -> Draw:
        """Return the parameters of the examples ``first``, ``first + step`` and so on."""
        values: tuple[torch.Tensor, ...] = tuple(value[first::step] for value in draw)  # type: ignore[attr-defined]
        return type(draw)(*values)

    def forward(
        self, energies: torch.Tensor, others: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Call `draw`, then `deform`."""
        return self.deform(energies, self.draw(energies, generator), others)

    def extra_repr(self) -> str:
        """Return the strengths as text for ``repr``."""
        return ", ".join(f"{name}={getattr(self, name):g}" for name in self.strengths)
