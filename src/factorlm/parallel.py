"""The processes that train one run together: which of them this one is, and what they have in all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def place() -> tuple[int, int]:
    """Number of this process and how many there are: 0 and 1 outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def total(value: float) -> float:
    """Sum of a number over the processes."""
    if place()[1] == 1:
        return value
    values = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(values)
    return values.item()


def weight(count: float) -> float:
    """Factor of a mean over ``count`` values.

    The average over processes of means so weighted, which is what gradients get, is the mean over the values of all.
    """
    _, processes = place()
    return 1.0 if processes == 1 else count * processes / max(total(count), 1)


def joined(values: Tensor) -> Tensor:
    """Values [n] of all processes, which may have different numbers of them, in the order of the processes."""
    if place()[1] == 1:
        return values
    from torchmetrics.utilities.distributed import gather_all_tensors

    return torch.cat(gather_all_tensors(values))


def largest(number: int) -> int:
    """The largest of a number over the processes."""
    if place()[1] == 1:
        return number
    values = torch.tensor(number)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def divided(value: Tensor) -> bool:
    """Whether the processes hold a piece of a tensor each."""
    if place()[1] == 1:
        return False
    from torch.distributed.tensor import DTensor  # takes a second to import

    return isinstance(value, DTensor)
