"""What heads share. Shapes: B rows, F fields, P = F(F-1)/2 pairs of fields, K factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from factorlm.errors import UserError


def field_pairs(num_fields: int) -> tuple[Tensor, Tensor]:
    """First and second field of each pair f < g: two [P], in the order (0, 1), (0, 2), ..."""
    first, second = torch.triu_indices(num_fields, num_fields, 1)
    return first, second


def spread(values: Tensor, num_fields: int) -> Tensor:
    """Values [B, P] of pairs in the order of `field_pairs`, above the diagonal of [B, F, F]."""
    first, second = field_pairs(num_fields)
    square = values.new_zeros(len(values), num_fields, num_fields)
    square[:, first, second] = values
    return square


def times(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows`` [B, n] times ``matrix`` [n, m], taken as (matrixᵀ rowsᵀ)ᵀ: [B, m].

    So that a row's result does not depend, to the last bit, on its place among the rows: for m <= 8 the plain product
    of MKL rounds by place. It still depends on B.
    """
    return (matrix.T @ rows.T).T


class Dense(nn.Linear):
    """A linear layer for rows [B, n] with the product of `times`."""

    def forward(self, rows: Tensor) -> Tensor:
        """W x + b of each row."""
        return torch.addmm(self.bias.unsqueeze(1), self.weight, rows.T).T


def mlp(num_inputs: int, hidden: Sequence[int], dropout: float, name: str = "hidden") -> nn.Sequential:
    """Layers x -> dropout(ReLU(W x + b)); no layers: the identity.

    W is drawn as by He et al. 2015 (normal) and b is 0. There is no batch normalization: a row's score must not depend
    on the rows beside it.

    Args:
        num_inputs: numbers in x.
        hidden: outputs of each layer.
        dropout: share of each layer's outputs set to 0 in training.
        name: of the argument that ``hidden`` comes from.

    Raises:
        UserError: a layer without outputs, a share outside [0, 1), or a share of no layer.
    """
    require_widths(name, hidden)
    require_share(dropout)
    if dropout and not hidden:
        raise UserError(f"head.dropout={dropout}: head.{name}=[] has no layer to drop from; set one of the two")
    layers: list[nn.Module] = []
    for inputs, outputs in zip([num_inputs, *hidden], hidden, strict=False):
        layer = Dense(inputs, outputs)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def affine(num_inputs: int, num_outputs: int) -> Dense:
    """A layer without activation; W is drawn as by Glorot and Bengio 2010 (normal) and b is 0."""
    layer = Dense(num_inputs, num_outputs)
    nn.init.xavier_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def projection(num_inputs: int) -> nn.Parameter:
    """A vector [n] that makes a score of n numbers, drawn as by Glorot and Bengio 2010 (normal)."""
    return nn.Parameter(torch.randn(num_inputs) * (2 / (num_inputs + 1)) ** 0.5)


def require_widths(name: str, widths: Sequence[int]) -> None:
    """Raises: UserError: a width of argument ``name`` is below 1."""
    if any(width < 1 for width in widths):
        raise UserError(f"head.{name}={list(widths)}: every layer needs 1 output or more")


def require_share(dropout: float) -> None:
    """Raises: UserError: dropout is outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise UserError(f"head.dropout={dropout}: it must be at least 0 and below 1")
