"""Field-aware factorization machine."""

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.heads.base import Head, Pairwise, Shape, Side, Terms
from factorlm.heads.parts import field_pairs


class FFM(Head, Pairwise):
    r"""Field-aware factorization machine.

    .. math:: s = b + \sum_f w_f + \sum_{f<g} \langle v_{f,g}, v_{g,f} \rangle

    Y. Juan, Y. Zhuang, W.-S. Chin and C.-J. Lin, Field-aware Factorization Machines for CTR Prediction, RecSys 2016.
    A field has a factor for each field it meets: W = F K, and v_{f,g} is numbers g K to (g + 1) K. The pairs across the
    sides are one product, D = F_user F_item K. The slice v_{f,f} has no pair.
    """

    user_pairs: Tensor
    item_pairs: Tensor
    user_across: Tensor
    item_across: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        first, second = field_pairs(shape.num_fields)
        places = torch.stack([first * shape.num_fields + second, second * shape.num_fields + first])
        of_user, of_item = second < shape.num_user_fields, first >= shape.num_user_fields
        across = places[:, ~(of_user | of_item)]
        skipped = shape.num_user_fields * shape.num_fields
        self.register_buffer("user_pairs", places[:, of_user], persistent=False)
        self.register_buffer("item_pairs", places[:, of_item] - skipped, persistent=False)
        self.register_buffer("user_across", across[0], persistent=False)
        self.register_buffer("item_across", across[1] - skipped, persistent=False)

    @staticmethod
    def factor_width(shape: Shape) -> int:
        """F K."""
        return shape.num_fields * shape.num_factors

    def user_side(self, terms: Terms) -> Side:
        """Bias [U] with the pairs among the user's fields, vectors [U, D]."""
        factors = self._by_field(terms.factors)
        own = _products(factors, *self.user_pairs).sum((1, 2))
        return Side(self.bias + terms.linear.sum(1) + own, factors.index_select(1, self.user_across).flatten(1))

    def item_side(self, terms: Terms) -> Side:
        """Bias [I] with the pairs among the item's fields, vectors [I, D]."""
        factors = self._by_field(terms.factors)
        own = _products(factors, *self.item_pairs).sum((1, 2))
        return Side(terms.linear.sum(1) + own, factors.index_select(1, self.item_across).flatten(1))

    def pairs(self, factors: Tensor) -> Tensor:
        """Inner products of the factors that two fields have for each other, above the diagonal of [B, F, F]."""
        size = self.shape.num_fields
        met = factors.reshape(len(factors), size, size, self.shape.num_factors)
        return (met * met.transpose(1, 2)).sum(3).triu(1)

    def _by_field(self, factors: Tensor) -> Tensor:
        """Factor of field f for field g at place f F + g: ``factors`` [B, f, F K] to [B, f F, K]."""
        return factors.reshape(len(factors), factors.shape[1] * self.shape.num_fields, self.shape.num_factors)


def _products(factors: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return factors.index_select(1, first) * factors.index_select(1, second)
