"""Train in several processes. An anchor has its negatives in the batches of all processes.

Axes: A anchors of one process, D dimensions.
"""

from typing import Any, NamedTuple

import torch
from torch import nn


class Candidates(NamedTuple):
    """Embeddings of all processes, which include the positive and the negatives of each anchor.

    ``projections`` [processes * A, D] have gradients. ``groups`` [processes * A, 2] are as in `DeformedBatch`.
    ``first`` is the row of the first embedding of this process.
    """

    projections: torch.Tensor
    groups: torch.Tensor
    first: int


def gather_candidates(projections: torch.Tensor, groups: torch.Tensor) -> Candidates:
    """Collect ``projections`` [A, D] and ``groups`` [A, 2] of all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Candidates(projections, groups, 0)
    everyone = [torch.empty_like(groups) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(everyone, groups)
    first = torch.distributed.get_rank() * len(projections)
    rows = AllGather.apply(projections)  # type: ignore[no-untyped-call]
    return Candidates(rows, torch.cat(everyone), first)


class AllGather(torch.autograd.Function):
    """Gather the rows of all processes: [n, D] to [processes * n, D].

    In the backward pass, a process gets the sum of all gradients of its rows. On gloo, the differentiable all_gather of
    torch calls scatter once for each process; this class calls all_reduce once.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        everyone = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyone, rows.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def unwrapped(module: nn.Module) -> Any:
    """Remove the wrapper that distributed training puts around a module."""
    return getattr(module, "module", module)


def leave_group() -> None:
    """Wait for all processes, then end distributed training.

    If a process exits earlier, the threads of gloo may abort it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
