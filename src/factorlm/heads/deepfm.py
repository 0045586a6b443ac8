"""Factorization machine beside a deep network on the same factors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from factorlm.heads.base import DeepHead, Shape, Side, Terms, pair_sum
from factorlm.heads.parts import mlp, projection


class DeepFM(DeepHead):
    r"""DeepFM.

    .. math:: s = b + \sum_f w_f + \sum_{f<g} \langle v_f, v_g \rangle + h^\top \mathrm{MLP}([v_1; ...; v_F])

    H. Guo et al., DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, IJCAI 2017: both
    parts read the same factors. The FM is factorized by side. The network has ReLU and dropout and no batch
    normalization, so that a row's score does not depend on the rows beside it.

    Args:
        shape: the fields of each side, and K.
        hidden: outputs of each ReLU layer.
        dropout: share of each layer's outputs set to 0 in training.
    """

    def __init__(self, shape: Shape, hidden: Sequence[int] = (64, 64), dropout: float = 0.0) -> None:
        super().__init__(shape)
        width = shape.num_fields * shape.num_factors
        self.layers = mlp(width, hidden, dropout)
        self.score = projection([width, *hidden][-1])

    def user_side(self, terms: Terms) -> Side:
        """Bias [U] with the pairs among the user's fields, vectors [U, K]."""
        return Side(self.bias + terms.linear.sum(1) + pair_sum(terms.factors), terms.factors.sum(1))

    def item_side(self, terms: Terms) -> Side:
        """Bias [I] with the pairs among the item's fields, vectors [I, K]."""
        return Side(terms.linear.sum(1) + pair_sum(terms.factors), terms.factors.sum(1))

    def deep(self, factors: Tensor) -> Tensor:
        """The network on all factors: [B, F, K] to [B]."""
        outputs: Tensor = self.layers(factors.flatten(1))
        return outputs @ self.score
