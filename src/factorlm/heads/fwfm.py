"""Field-weighted factorization machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.heads.base import Head, Pairwise, Shape, Side, Terms
from factorlm.heads.parts import field_pairs


class FwFM(Head, Pairwise):
    r"""Field-weighted factorization machine.

    .. math:: s = b + \sum_f w_f + \sum_{f<g} r_{fg} \langle v_f, v_g \rangle

    J. Pan et al., Field-weighted Factorization Machines for Click-Through Rate Prediction in Display Advertising, WWW
    2018. The weights r [P] start at 1, so that training starts at the FM. Of the pairs across the sides one
    product remains: the factors of the side with fewer fields, laid end to end, times the weighted sums of the other
    side's, D = min(F_user, F_item) K.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.weight = nn.Parameter(torch.ones(shape.num_fields * (shape.num_fields - 1) // 2))

    def user_side(self, terms: Terms) -> Side:
        """Bias [U] with the pairs among the user's fields, vectors [U, D]."""
        first, weights = self.shape.num_user_fields, self._weights()
        factors = terms.factors
        if first > self.shape.num_item_fields:
            factors = _weighted(weights[:first, first:].T, factors)
        own = _pair_sum(weights[:first, :first], terms.factors)
        return Side(self.bias + terms.linear.sum(1) + own, factors.flatten(1))

    def item_side(self, terms: Terms) -> Side:
        """Bias [I] with the pairs among the item's fields, vectors [I, D]."""
        first, weights = self.shape.num_user_fields, self._weights()
        factors = terms.factors
        if first <= self.shape.num_item_fields:
            factors = _weighted(weights[:first, first:], factors)
        own = _pair_sum(weights[first:, first:], terms.factors)
        return Side(terms.linear.sum(1) + own, factors.flatten(1))

    def pairs(self, factors: Tensor) -> Tensor:
        """Weighted inner products, above the diagonal of [B, F, F]."""
        return (factors @ factors.mT) * self._weights()

    def _weights(self) -> Tensor:
        """The weights above the diagonal of [F, F]."""
        size = self.shape.num_fields
        return self.weight.new_zeros(size, size).index_put(field_pairs(size), self.weight)


def _weighted(weights: Tensor, factors: Tensor) -> Tensor:
    """Sums over g of ``weights`` [F, G] times ``factors`` [B, G, K]: [B, F, K]."""
    return torch.einsum("fg,bgk->bfk", weights, factors)


def _pair_sum(weights: Tensor, factors: Tensor) -> Tensor:
    return (_weighted(weights, factors) * factors).sum((1, 2))
