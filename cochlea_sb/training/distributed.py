"""Train in several processes, as one process would train with the same batches.

Each process draws the whole batch, because a draw costs little. It deforms and encodes only its own share of the rows:
every n-th row. Then all processes get all outputs, and compute the same loss, with negatives from all processes.

Axes: n processes, A rows of a batch, D dimensions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from cochlea_sb.errors import UserError, one_line


class Share(NamedTuple):
    """The rows ``number``, ``number + total``, ``number + 2 * total`` and so on. ``Share(0, 1)`` is all rows."""

    number: int
    total: int

    @property
    def rows(self) -> slice:
        """slice, the rows of this share."""
        return slice(self.number, None, self.total)


ALL = Share(0, 1)


def is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def own_share() -> Share:
    """Return the share of this process: `ALL` without distributed training."""
    return Share(torch.distributed.get_rank(), torch.distributed.get_world_size()) if is_distributed() else ALL


@torch.no_grad()
def summed(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of the tensors of all processes, which have the same shape."""
    if is_distributed():
        values = values.contiguous().clone()
        torch.distributed.all_reduce(values)
    return values


def collected(value: Any) -> list[Any]:
    """Return the values of all processes, which can be any objects."""
    values = [value] * own_share().total
    if is_distributed():
        torch.distributed.all_gather_object(values, value)
    return values


def gather_rows(rows: torch.Tensor, total: int) -> torch.Tensor:
    """Collect the rows of all shares, in their order: [A / n, ...] to [A, ...], with gradients.

    ``total`` is A. Rows that are already all rows stay as they are.
    """
    if len(rows) == total:
        return rows
    gathered: torch.Tensor = AllGather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class AllGather(torch.autograd.Function):
    """Collect the rows of all shares.

    All processes compute the same loss of the result, so they have the same gradient. The gradient of a process is
    multiplied by n, because DistributedDataParallel divides the sum over the processes by n.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        everyone = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(own_share().total)]
        torch.distributed.all_gather(everyone, rows.contiguous())
        return torch.stack(everyone, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        share = own_share()
        return gradient[share.rows] * share.total


def wrapped(module: nn.Module) -> nn.Module:
    """Wrap a module for distributed training on CPUs, where torch has no batch normalisation of all processes."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.forward = partial(batch_norm, part)  # type: ignore[method-assign]
    return nn.parallel.DistributedDataParallel(module)


def unwrapped(module: nn.Module) -> Any:
    """Remove the wrappers that distributed training and ``torch.compile`` put around a module."""
    module = getattr(module, "module", module)
    return getattr(module, "_orig_mod", module)


def batch_norm(layer: _BatchNorm, inputs: torch.Tensor) -> torch.Tensor:
    """Apply a batch normalisation with the mean and the variance of the inputs of all processes, [n, channels, ...]."""
    from torch.distributed.nn.functional import all_reduce

    if not layer.training:
        return F.batch_norm(inputs, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    axes = [0, *range(2, inputs.ndim)]
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    count = inputs.numel() // inputs.shape[1] * own_share().total
    mean: torch.Tensor = all_reduce(inputs.float().sum(axes)) / count
    centred = inputs - mean.view(shape)
    variance: torch.Tensor = all_reduce(centred.float().square().sum(axes)) / count
    if layer.track_running_stats:
        with torch.no_grad():
            layer.running_mean.lerp_(mean, layer.momentum)  # type: ignore[union-attr, arg-type]
            layer.running_var.lerp_(variance * (count / (count - 1)), layer.momentum)  # type: ignore[union-attr, arg-type]
            layer.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    outputs: torch.Tensor = centred * (variance + layer.eps).rsqrt().view(shape)
    if layer.affine:
        outputs = torch.addcmul(layer.bias.view(shape), outputs, layer.weight.view(shape))
    return outputs.to(inputs.dtype)


@contextmanager
def a_lost_process_is_told() -> Iterator[None]:
    """Raise a `UserError` if training fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error) if is_distributed() else False
        if not lost:
            raise
        raise UserError(
            f"Process {own_share().number} stops, because another process of this run has ended ({one_line(error)}): "
            "run the same command again to continue from the last checkpoint, with any number of processes."
        ) from error


def leave_group() -> None:
    """Wait for all processes, then end distributed training.

    If a process exits earlier, the threads of gloo may abort it.
    """
    if is_distributed():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
