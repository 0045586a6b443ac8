"""Cross-entropy over every training item."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from factorlm.parallel import weight

ROWS = 128  # of scores made at once: they stay in the cache of one core


class FullSoftmax(nn.Module):
    """-log softmax of the positive among all training items: log sum_j exp s_j - s_+, where s = users @ items^T.

    Scores are made, turned into gradients and forgotten 128 rows at a time, so that memory does not grow with B times
    I and half of the time, which a matrix of all scores costs in memory traffic, is saved.
    """

    def forward(self, users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of ``users`` [B, D] against ``items`` [I, D]; ``targets`` [B] are places of the positives."""
        dtype = torch.promote_types(users.dtype, torch.float32)
        with torch.autocast(users.device.type, enabled=False):  # scores and losses stay float32
            inputs = users.to(dtype), items.to(dtype), targets
            loss: Tensor = _ProductCrossEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
        return loss * weight(len(users))


class _ProductCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        columns, size = items.T, len(users)
        users_gradient, items_gradient = torch.empty_like(users), torch.zeros_like(items)
        loss = users.new_zeros((), dtype=torch.float64)
        for start in range(0, size, ROWS):
            rows, target = users[start : start + ROWS], targets[start : start + ROWS].unsqueeze(1)
            scores = rows @ columns
            positive, highest = scores.gather(1, target), scores.amax(1, keepdim=True)
            shares = scores.sub_(highest).exp_()
            total = shares.sum(1, keepdim=True)
            loss += (total.log() + highest - positive).sum()
            shares.div_(total).scatter_add_(1, target, shares.new_full(target.shape, -1.0))
            torch.mm(shares, items, out=users_gradient[start : start + ROWS])
            items_gradient.addmm_(shares.T, rows)
        ctx.save_for_backward(users_gradient.div_(size), items_gradient.div_(size))
        return (loss / size).to(users.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        users_gradient, items_gradient = ctx.saved_tensors
        return users_gradient * gradient, items_gradient * gradient, None
