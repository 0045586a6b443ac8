"""Factorization machine of second order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.heads.base import Side, Terms


class FM(nn.Module):
    r"""Factorization machine.

    .. math:: s = b + \sum_f w_f + \sum_{f<g} \langle v_f, v_g \rangle

    S. Rendle, Factorization Machines, ICDM 2010, equation 1; the pair sum is taken in O(FK) by its lemma 3.1. With the
    fields divided into two sides the score is exactly ``user.bias + item.bias + <user.vectors, item.vectors>``, so that
    ranking all items is one matrix product.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, linear: Tensor, factors: Tensor) -> Tensor:
        """Score rows of fields: ``linear`` [B, F] and ``factors`` [B, F, K] to [B]."""
        return self.bias + _own(linear, factors)

    def user_side(self, terms: Terms) -> Side:
        """The part of the score that the user's fields make: bias [U], vectors [U, K]."""
        return Side(self.bias + _own(*terms), terms.factors.sum(1))

    def item_side(self, terms: Terms) -> Side:
        """The part of the score that the item's fields make: bias [I], vectors [I, K]."""
        return Side(_own(*terms), terms.factors.sum(1))


def _own(linear: Tensor, factors: Tensor) -> Tensor:
    """Linear terms plus all pairs among the given fields [B]."""
    return linear.sum(1) + 0.5 * (factors.sum(1).square() - factors.square().sum(1)).sum(1)
