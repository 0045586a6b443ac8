"""Two towers: the user's fields meet the item's in one inner product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from factorlm.errors import UserError
from factorlm.heads.base import Head, Pairwise, Shape, Side, Terms
from factorlm.heads.parts import affine, mlp


class Dot(Head, Pairwise):
    r"""Two towers.

    .. math:: s = b + \sum_f w_f + \langle t_{user}, t_{item} \rangle

    A tower t [B, K] is the sum of the side's factors: matrix factorization when each side has its id alone (Y. Koren,
    R. Bell and C. Volinsky, Matrix Factorization Techniques for Recommender Systems, Computer 2009), and
    the FM without the pairs inside a side. With ``hidden`` it is a ReLU network on the side's factors laid end to end,
    with K outputs (P.-S. Huang et al., Learning Deep Structured Semantic Models, CIKM 2013), without batch
    normalization, so that a row's score does not depend on the rows beside it; then there are no pairs of fields.

    Args:
        shape: the fields of each side, and K.
        hidden: outputs of each hidden layer of a tower; []: a tower is a sum.
        dropout: share of each hidden layer's outputs set to 0 in training.
    """

    def __init__(self, shape: Shape, hidden: Sequence[int] = (), dropout: float = 0.0) -> None:
        super().__init__(shape)
        self.hidden = list(hidden)
        self.user_tower = _tower(shape.num_user_fields, shape.num_factors, hidden, dropout)
        self.item_tower = _tower(shape.num_item_fields, shape.num_factors, hidden, dropout)

    def user_side(self, terms: Terms) -> Side:
        """Bias [U], vectors [U, K]."""
        return Side(self.bias + terms.linear.sum(1), self.user_tower(terms.factors))

    def item_side(self, terms: Terms) -> Side:
        """Bias [I], vectors [I, K]."""
        return Side(terms.linear.sum(1), self.item_tower(terms.factors))

    def pairs(self, factors: Tensor) -> Tensor:
        """Inner products across the sides, above the diagonal of [B, F, F]; 0 inside a side.

        Raises:
            UserError: the towers have hidden layers.
        """
        if self.hidden:
            raise UserError(
                f"head.hidden={self.hidden}: towers with layers have no pairs of fields; set head.hidden=[]"
            )
        across = torch.zeros(factors.shape[1], factors.shape[1], dtype=torch.bool, device=factors.device)
        across[: self.shape.num_user_fields, self.shape.num_user_fields :] = True
        return (factors @ factors.mT) * across


class _Sum(nn.Module):
    def forward(self, factors: Tensor) -> Tensor:
        return factors.sum(1)


def _tower(num_fields: int, num_factors: int, hidden: Sequence[int], dropout: float) -> nn.Module:
    layers = mlp(num_fields * num_factors, hidden, dropout)
    if not hidden:
        return _Sum()
    return nn.Sequential(nn.Flatten(), layers, affine(hidden[-1], num_factors))
