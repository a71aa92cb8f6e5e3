"""Combinations of deformations: all in sequence, one for each example, or one for each batch."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import uniform


class CombinedDraw(NamedTuple):
    """The deformations that are applied, in this order.

    kinds : list of int, position of each deformation in the list of deformations
    examples : list of slice, the examples of the batch that each deformation changes
    draws : list, the draw of each deformation
    """

    kinds: list[int]
    examples: list[slice]
    draws: list[Any]


class Composition(Deformation[CombinedDraw]):
    """Apply all deformations to every example, one after the other.

    Arguments
    ---------
    deformations : list of Deformation
    weaken : bool
        Whether to draw a strength for each example, uniformly from [0, 1], which scales the pitch shift, the stretch,
        the resizing and the equalization. The encoder then also learns small differences.

    Example
    -------
    >>> from cochlea_sb.augment.gain import Gain
    >>> from cochlea_sb.augment.time_stretch import TimeStretch
    >>> Composition([TimeStretch(1.5), Gain(20)])
    Composition(
      (deformations): ModuleList(
        (0): TimeStretch(max_rate=1.5)
        (1): Gain(max_db=20)
      )
    )
    """

    def __init__(self, deformations: Sequence[Deformation[Any]], weaken: bool = False) -> None:
        super().__init__()
        self.deformations, self.weakens = nn.ModuleList(deformations), weaken

    def kind(self, number: int) -> Deformation[Any]:
        """Return the deformation at the position ``number``."""
        deformation = self.deformations[number]
        return deformation  # type: ignore[return-value]

    def choose(self, energies: torch.Tensor, generator: torch.Generator | None) -> Iterator[tuple[int, slice]]:
        """Yield the position of each deformation to apply, and the examples that it changes."""
        for kind in range(len(self.deformations)):
            yield kind, slice(0, len(energies))

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> CombinedDraw:
        draw = CombinedDraw([], [], [])
        strength = uniform(0, 1, energies, generator) if self.weakens else None
        for kind, examples in self.choose(energies, generator):
            draw.kinds.append(kind)
            draw.examples.append(examples)
            draw.draws.append(self.kind(kind).draw(energies[examples], generator))
        return draw if strength is None else self.weaken(draw, strength)

    def weaken(self, draw: CombinedDraw, strength: torch.Tensor) -> CombinedDraw:
        parts = zip(draw.kinds, draw.examples, draw.draws, strict=True)
        weaker = [self.kind(kind).weaken(inner, strength[examples]) for kind, examples, inner in parts]
        return draw._replace(draws=weaker)

    def take(self, draw: CombinedDraw, first: int, step: int) -> CombinedDraw:
        examples, draws = [], []
        for kind, part, inner in zip(draw.kinds, draw.examples, draw.draws, strict=True):
            low, high = (max(0, -((first - end) // step)) for end in (part.start, part.stop))  # rounded up
            examples.append(slice(low, high))
            draws.append(self.kind(kind).take(inner, (first - part.start) % step, step))
        return CombinedDraw(draw.kinds, examples, draws)

    def deform(self, energies: torch.Tensor, draw: CombinedDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        for kind, inner in zip(draw.kinds, draw.draws, strict=True):
            energies = self.kind(kind).deform(energies, inner, others)
        return energies


class OneKindPerBatch(Composition):
    """Draw one of the deformations, and apply it to all examples of the batch (as in the zounds experiments)."""

    def choose(self, energies: torch.Tensor, generator: torch.Generator | None) -> Iterator[tuple[int, slice]]:
        # The state of the generator is on the CPU. A number drawn on a GPU would make the CPU wait for the GPU.
        number = int(torch.randint(2**31, ())) if generator is None else zlib.crc32(bytes(generator.get_state()))
        yield number % len(self.deformations), slice(0, len(energies))
        uniform(0, 1, energies, generator)  # a draw changes the state, so the next batch can get another deformation


class OneKindPerExample(Composition):
    """Apply one of the deformations to each example: the joint training of Jansen et al. 2017, section 3.4.

    The batch is split into parts of about equal size, one part for each deformation. Training shuffles the examples.
    """

    def choose(self, energies: torch.Tensor, generator: torch.Generator | None) -> Iterator[tuple[int, slice]]:
        first = 0
        for kind, part in enumerate(torch.arange(len(energies)).tensor_split(len(self.deformations))):
            yield kind, slice(first, first + len(part))
            first += len(part)

    def weaken(self, draw: CombinedDraw, strength: torch.Tensor) -> CombinedDraw:
        parts = zip(draw.kinds, draw.examples, draw.draws, strict=True)
        weaker = [self.kind(kind).weaken(inner, strength[examples]) for kind, examples, inner in parts]
        return draw._replace(draws=weaker)

    def deform(self, energies: torch.Tensor, draw: CombinedDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        others = energies.roll(1, 0) if others is None else others
        steps = zip(draw.kinds, draw.examples, draw.draws, strict=True)
        return torch.cat([self.kind(kind).deform(energies[part], inner, others[part]) for kind, part, inner in steps])
