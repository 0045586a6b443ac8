"""Field-matrixed factorization machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.heads.base import Head, Pairwise, Shape, Side, Terms
from factorlm.heads.parts import field_pairs, spread, times


class FmFM(Head, Pairwise):
    r"""Field-matrixed factorization machine.

    .. math:: s = b + \sum_f w_f + \sum_{f<g} v_f^\top M_{fg} v_g

    Y. Sun, J. Pan, A. Zhang and A. Flores, FM²: Field-matrixed Factorization Machines for Recommender Systems, WWW
    2021. The matrices M [P, K, K] start at the identity, so that training starts at the FM. Of the pairs across the
    sides one product remains: the factors of the side with fewer fields, laid end to end, times the transformed sums of
    the other side's, D = min(F_user, F_item) K.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        num_pairs = shape.num_fields * (shape.num_fields - 1) // 2
        self.matrices = nn.Parameter(torch.eye(shape.num_factors).repeat(num_pairs, 1, 1))
        self._split = shape.num_user_fields * shape.num_factors

    def user_side(self, terms: Terms) -> Side:
        """Bias [U] with the pairs among the user's fields, vectors [U, D]."""
        factors, matrix = terms.factors.flatten(1), self._matrix()
        own = (times(factors, matrix[: self._split, : self._split]) * factors).sum(1)
        across = self.shape.num_user_fields > self.shape.num_item_fields
        vectors = times(factors, matrix[: self._split, self._split :]) if across else factors
        return Side(self.bias + terms.linear.sum(1) + own, vectors)

    def item_side(self, terms: Terms) -> Side:
        """Bias [I] with the pairs among the item's fields, vectors [I, D]."""
        factors, matrix = terms.factors.flatten(1), self._matrix()
        own = (times(factors, matrix[self._split :, self._split :]) * factors).sum(1)
        across = self.shape.num_user_fields <= self.shape.num_item_fields
        vectors = times(factors, matrix[: self._split, self._split :].T) if across else factors
        return Side(terms.linear.sum(1) + own, vectors)

    def pairs(self, factors: Tensor) -> Tensor:
        """Products through each pair's matrix, above the diagonal of [B, F, F]."""
        first, second = field_pairs(self.shape.num_fields)
        moved = torch.einsum("bpk,pkl->bpl", factors[:, first], self.matrices)
        return spread((moved * factors[:, second]).sum(2), self.shape.num_fields)

    def _matrix(self) -> Tensor:
        """The matrices as blocks above the diagonal of [F K, F K]."""
        size, num_factors = self.shape.num_fields, self.shape.num_factors
        blocks = self.matrices.new_zeros(size, size, num_factors, num_factors)
        blocks = blocks.index_put(field_pairs(size), self.matrices)
        return blocks.transpose(1, 2).reshape(size * num_factors, size * num_factors)
