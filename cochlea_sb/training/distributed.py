"""Training in several processes: negatives come from the batches of all of them.

Axes: A anchors of this process, D dimensions.
"""

from typing import Any, NamedTuple

import torch
from torch import nn


class Candidates(NamedTuple):
    """Embeddings of all processes, of which each anchor has its positive and its negatives.

    projections : torch.Tensor [processes * A, D], with gradients
    groups : torch.Tensor [processes * A, 2]
        See `cochlea_sb.training.batch.DeformedBatch`.
    first : int
        Row at which those of this process start.
    """

    projections: torch.Tensor
    groups: torch.Tensor
    first: int


def gather_candidates(projections: torch.Tensor, groups: torch.Tensor) -> Candidates:
    """Candidates for the anchors of this process, from its own [A, D] and [A, 2] and those of all other processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Candidates(projections, groups, 0)
    everyone = [torch.empty_like(groups) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(everyone, groups)
    first = torch.distributed.get_rank() * len(projections)
    rows = AllGather.apply(projections)  # type: ignore[no-untyped-call]
    return Candidates(rows, torch.cat(everyone), first)


class AllGather(torch.autograd.Function):
    """Rows of all processes. Backwards, each process gets the sum of all gradients of its rows.

    torch's own differentiable all_gather scatters rank by rank in its backward on gloo; this needs one all_reduce.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        """[n, D] to [processes * n, D]."""
        everyone = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyone, rows.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """[processes * n, D] to [n, D]."""
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def unwrapped(module: nn.Module) -> Any:
    """The module inside the wrapper that distributed training puts around it."""
    return getattr(module, "module", module)


def leave_group() -> None:
    """End distributed training: wait for all processes, then leave their group.

    A process that ends inside the group may abort while gloo's threads still run.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
