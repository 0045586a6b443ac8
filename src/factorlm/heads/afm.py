"""Attentional factorization machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.heads.base import DeepHead, Pairwise, Shape
from factorlm.heads.parts import affine, field_pairs, projection, require_share, require_widths, spread


class AFM(DeepHead, Pairwise):
    r"""Attentional factorization machine.

    .. math::
        s = b + \sum_f w_f + p^\top \sum_{f<g} a_{fg} (v_f \odot v_g), \quad
        a_{fg} = \mathrm{softmax}_{fg}\; h^\top \mathrm{ReLU}(W (v_f \odot v_g) + c)

    J. Xiao et al., Attentional Factorization Machines: Learning the Weight of Feature Interactions via Attention
    Networks, IJCAI 2017. W [A, K] and h [A] start as by Glorot and Bengio, c at 0 and, as in the
    authors' code, p [K] at 1 and the dropout is on the weighted sum. The softmax is over all P pairs, so a pair's
    contribution depends on both sides. With one field on each side a is 1: the FM with p.

    Args:
        shape: the fields of each side, and K.
        attention_size: A.
        dropout: share of the K sums set to 0 in training.
    """

    first: Tensor
    second: Tensor

    def __init__(self, shape: Shape, attention_size: int = 16, dropout: float = 0.0) -> None:
        super().__init__(shape)
        require_widths("attention_size", [attention_size])
        require_share(dropout)
        first, second = field_pairs(shape.num_fields)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.attention = affine(shape.num_factors, attention_size)
        self.attention_score = projection(attention_size)
        self.projection = nn.Parameter(torch.ones(shape.num_factors))
        self.dropout = nn.Dropout(dropout)

    def deep(self, factors: Tensor) -> Tensor:
        """The pairs weighted by attention: [B, F, K] to [B]."""
        pooled: Tensor = self.dropout(self._weighted(factors).sum(1))
        return (pooled * self.projection).sum(1)

    def pairs(self, factors: Tensor) -> Tensor:
        """What each pair adds, its attention included, above the diagonal of [B, F, F]."""
        return spread((self._weighted(factors) * self.projection).sum(2), self.shape.num_fields)

    def _weighted(self, factors: Tensor) -> Tensor:
        """Elementwise products times attention [B, P, K]."""
        products = factors.index_select(1, self.first) * factors.index_select(1, self.second)
        scores: Tensor = self.attention(products.flatten(0, 1)).relu() @ self.attention_score
        return scores.reshape(*products.shape[:2], 1).softmax(1) * products
