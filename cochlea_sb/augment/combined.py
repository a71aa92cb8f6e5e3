"""Ways to combine deformations: all in order, one kind an example, or one kind a batch. A yaml chooses."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.energies import uniform


class CombinedDraw(NamedTuple):
    """Which deformations get which examples, and their own draws.

    kinds : list of int, numbers of the deformations that are applied, in this order
    examples : list of slice, the examples of the batch that each is applied to
    draws : list, the draw of each
    """

    kinds: list[int]
    examples: list[slice]
    draws: list[Any]


class Composition(Deformation[CombinedDraw]):
    """All deformations, one after the other, on every example.

    Arguments
    ---------
    deformations : list of Deformation

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

    def __init__(self, deformations: Sequence[Deformation[Any]]) -> None:
        super().__init__()
        self.deformations = nn.ModuleList(deformations)

    def kind(self, number: int) -> Deformation[Any]:
        """One of the deformations."""
        deformation = self.deformations[number]
        return deformation  # type: ignore[return-value]

    def choose(self, energies: torch.Tensor, generator: torch.Generator | None) -> Iterator[tuple[int, slice]]:
        """Which deformation gets which examples."""
        for kind in range(len(self.deformations)):
            yield kind, slice(0, len(energies))

    def draw(self, energies: torch.Tensor, generator: torch.Generator | None = None) -> CombinedDraw:
        """See `Deformation.draw`."""
        draw = CombinedDraw([], [], [])
        for kind, examples in self.choose(energies, generator):
            draw.kinds.append(kind)
            draw.examples.append(examples)
            draw.draws.append(self.kind(kind).draw(energies[examples], generator))
        return draw

    def deform(self, energies: torch.Tensor, draw: CombinedDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        """See `Deformation.deform`."""
        for kind, inner in zip(draw.kinds, draw.draws, strict=True):
            energies = self.kind(kind).deform(energies, inner, others)
        return energies


class OneKindPerBatch(Composition):
    """One of the deformations, drawn for the whole batch (as the zounds experiments trained)."""

    def choose(self, energies: torch.Tensor, generator: torch.Generator | None) -> Iterator[tuple[int, slice]]:
        """See `Composition.choose`."""
        # The choice steers Python. A generator's state lies on the CPU, its draws may not: reading one would stall.
        number = int(torch.randint(2**31, ())) if generator is None else zlib.crc32(bytes(generator.get_state()))
        yield number % len(self.deformations), slice(0, len(energies))
        uniform(0, 1, energies, generator)  # moves the generator on, even if the deformation drew nothing


class OneKindPerExample(Composition):
    """One of the deformations for each example: the joint training of Jansen et al. 2017, section 3.4.

    The batch, whose order is random anyway, is cut into as many parts of about the same size.
    """

    def choose(self, energies: torch.Tensor, generator: torch.Generator | None) -> Iterator[tuple[int, slice]]:
        """See `Composition.choose`."""
        first = 0
        for kind, part in enumerate(torch.arange(len(energies)).tensor_split(len(self.deformations))):
            yield kind, slice(first, first + len(part))
            first += len(part)

    def deform(self, energies: torch.Tensor, draw: CombinedDraw, others: torch.Tensor | None = None) -> torch.Tensor:
        """See `Deformation.deform`."""
        others = energies.roll(1, 0) if others is None else others
        steps = zip(draw.kinds, draw.examples, draw.draws, strict=True)
        return torch.cat([self.kind(kind).deform(energies[part], inner, others[part]) for kind, part, inner in steps])
