"""Optimizers that move the touched rows of an embedding table and nothing else of it.

A sparse gradient, as of `factorlm.models.table.Table`, names the touched rows; what a row got in several places is
summed before it moves, so a step is exact for its batch. A parameter with a dense gradient moves element by element as
under the plain optimizer, so one optimizer trains a model of both kinds. A table is R rows of W factors and a linear
weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factorlm.errors import UserError
from factorlm.models.kernels import Array, repeats, row_adagrad, row_adam

Closure = Callable[[], float] | None


class RowAdagrad(torch.optim.Optimizer):
    r"""Row-wise Adagrad: for each row of a table one accumulator of its factors and one of its linear weight.

    .. math:: G_r \leftarrow G_r + \operatorname{mean}(\nabla v_r^2), \quad
        v_r \leftarrow v_r - \frac{\eta}{\sqrt{G_r} + \epsilon} \nabla v_r

    and the same for w_r, whose gradients are of another size: under one accumulator they would hold the factors back.
    J. Duchi, E. Hazan, Y. Singer, Adaptive Subgradient Methods, JMLR 12, 2011; by rows as in M. Naumov et al., Deep
    Learning Recommendation Model, arXiv 1906.00091. A dense gradient has an accumulator for each element.

    Args:
        params: what to train.
        lr: learning rate; the first step of a row has this root mean square.
        eps: added to the root of the accumulator.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, eps: float = 1e-10) -> None:
        _require_rate(lr)
        super().__init__(params, {"lr": lr, "eps": eps})
        self._bits: dict[Tensor, Array] = {}

    @torch.no_grad()
    def step(self, closure: Closure = None) -> float | None:  # type: ignore[override]
        """Take one step; ``closure``, if any, computes loss and gradients first."""
        loss = _evaluated(closure)
        for group, parameter, gradient in _moving(self):
            state = self.state[parameter]
            if not state:
                state["sum"] = _zeros(parameter[:, :2] if gradient.is_sparse else parameter)
            lr, eps = group["lr"], group["eps"]
            if gradient.is_sparse:
                rows, values = _touched(parameter, gradient, self._bits)
                row_adagrad(parameter.numpy(), rows, values, state["sum"].numpy(), lr, eps)
            else:
                state["sum"].addcmul_(gradient, gradient)
                parameter.addcdiv_(gradient, state["sum"].sqrt().add_(eps), value=-lr)
        return loss


class RowAdam(torch.optim.Optimizer):
    r"""Adam on the touched rows of a table: neither the moments nor the values of other rows change.

    .. math:: m_r \leftarrow \beta_1 m_r + (1 - \beta_1) g_r, \quad
        v_r \leftarrow \beta_2 v_r + (1 - \beta_2) g_r^2, \quad
        \theta_r \leftarrow \theta_r - \eta \frac{m_r / (1 - \beta_1^t)}{\sqrt{v_r / (1 - \beta_2^t)} + \epsilon}

    with t the number of steps, of whatever rows. D. Kingma, J. Ba, Adam, ICLR 2015. Where every row is touched in every
    step this is Adam; a rarely touched row moves less than under Adam, which moves it on by its old moments. A dense
    gradient: Adam.

    Args:
        params: what to train.
        lr: learning rate.
        betas: decay of the first and of the second moment by step.
        eps: added to the root of the second moment.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        _require_rate(lr)
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"optimizer.betas={list(betas)}: each must be at least 0 and below 1")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps})
        self._bits: dict[Tensor, Array] = {}

    @torch.no_grad()
    def step(self, closure: Closure = None) -> float | None:  # type: ignore[override]
        """Take one step; ``closure``, if any, computes loss and gradients first."""
        loss = _evaluated(closure)
        for group, parameter, gradient in _moving(self):
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["exp_avg"], state["exp_avg_sq"] = _zeros(parameter), _zeros(parameter)
            state["step"] += 1
            first, second, eps = state["exp_avg"], state["exp_avg_sq"], group["eps"]
            beta1, beta2 = group["betas"]
            size = group["lr"] / (1 - beta1 ** state["step"])
            root = (1 - beta2 ** state["step"]) ** -0.5
            if gradient.is_sparse:
                rows, values = _touched(parameter, gradient, self._bits)
                moments = first.numpy(), second.numpy()
                row_adam(parameter.numpy(), rows, values, *moments, (1 - beta1, 1 - beta2), (size, root), eps)
            else:
                first.lerp_(gradient, 1 - beta1)
                second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                parameter.addcdiv_(first, second.sqrt().mul_(root).add_(eps), value=-size)
        return loss


def _require_rate(lr: float) -> None:
    if lr <= 0:
        raise UserError(f"optimizer.lr={lr:g}: it must be above 0")


def _evaluated(closure: Closure) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _zeros(like: Tensor) -> Tensor:
    """Of the shape of another; numpy asks for large pages of memory, in which far rows are found faster."""
    return torch.from_numpy(np.zeros_like(like.numpy())) if like.device.type == "cpu" else torch.zeros_like(like)


def _moving(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                yield group, parameter, parameter.grad


def _touched(parameter: Tensor, gradient: Tensor, bits: dict[Tensor, Array]) -> tuple[Array, Array]:
    """Rows [n] without repeats and their gradients [n, W + 1]; ``bits`` keeps room for each parameter."""
    if parameter.device.type != "cpu":
        raise UserError(
            "optimizer: row-wise optimizers work on the CPU: set trainer.accelerator=cpu, or optimizer=adamw"
        )
    if parameter not in bits:
        bits[parameter] = np.zeros(len(parameter) // 64 + 1, np.uint64)
    rows, values = gradient._indices()[0], gradient._values()
    if repeats(rows.numpy(), bits[parameter]):
        rows, numbers = rows.unique(return_inverse=True)
        values = values.new_zeros(len(rows), values.shape[1]).index_add_(0, numbers, values)
    return rows.numpy(), values.numpy()
