"""What a head receives and gives.

Shapes: B rows, U users, I items, F fields, K factors, W numbers in a field's factor, D dimensions of a side's vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Terms(NamedTuple):
    """What the fields of one or both sides contribute: ``linear`` [B, F] and ``factors`` [B, F, W]."""

    linear: Tensor
    factors: Tensor

    def join(self, other: Terms) -> Terms:
        """The fields of both, row by row."""
        return Terms(torch.cat([self.linear, other.linear], 1), torch.cat([self.factors, other.factors], 1))

    def take(self, index: Tensor) -> Terms:
        """The rows at places ``index``."""
        return Terms(self.linear[index], self.factors[index])


class Side(NamedTuple):
    """One side of a factorized score: ``bias`` [B] and ``vectors`` [B, D]; user plus item bias plus dot product."""

    bias: Tensor
    vectors: Tensor


class Shape(NamedTuple):
    """What a head is built for: fields of the user, fields of the item, K."""

    num_user_fields: int
    num_item_fields: int
    num_factors: int

    @property
    def num_fields(self) -> int:
        """F, of both sides; the user's fields come first."""
        return self.num_user_fields + self.num_item_fields


class Head(nn.Module, ABC):
    """Scores fields: ``user.bias + item.bias + <user.vectors, item.vectors>``, so that ranking is one matrix product.

    A head is not told whether it scores one row or ranks all items: the two sides are all it defines. Its global
    ``bias`` belongs to one of them. Arguments of a subclass come by keyword from ``conf/head/*.yaml``.

    Args:
        shape: the fields of each side, of which each has at least one, and K.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.bias = nn.Parameter(torch.zeros(()))

    @staticmethod
    def factor_width(shape: Shape) -> int:
        """W: how many numbers the factor of each field has."""
        return shape.num_factors

    @abstractmethod
    def user_side(self, terms: Terms) -> Side:
        """The part of the score that the user's fields make: bias [U], vectors [U, D]."""

    @abstractmethod
    def item_side(self, terms: Terms) -> Side:
        """The part of the score that the item's fields make: bias [I], vectors [I, D]."""

    def forward(self, linear: Tensor, factors: Tensor) -> Tensor:
        """Score rows of fields, the user's first: ``linear`` [B, F] and ``factors`` [B, F, W] to [B]."""
        first = self.shape.num_user_fields
        user = self.user_side(Terms(linear[:, :first], factors[:, :first]))
        item = self.item_side(Terms(linear[:, first:], factors[:, first:]))
        return user.bias + item.bias + (user.vectors * item.vectors).sum(1)


class SumHead(Head):
    """A head that needs of a side its linear terms, the sum of its factors and the pairs inside, but no single field.

    Embedding tables read these sums at once, without making the factors of each field.
    """

    def user_side(self, terms: Terms) -> Side:
        """Bias [U] with the pairs among the user's fields, vectors [U, W]."""
        return Side(self.bias + terms.linear.sum(1) + pair_sum(terms.factors), terms.factors.sum(1))

    def item_side(self, terms: Terms) -> Side:
        """Bias [I] with the pairs among the item's fields, vectors [I, W]."""
        return Side(terms.linear.sum(1) + pair_sum(terms.factors), terms.factors.sum(1))


class DeepHead(Head):
    """A head with a further part that mixes the sides, ``deep``, and so is scored pair by pair.

    The factorized part is the linear terms, unless a subclass has more of it.
    """

    def user_side(self, terms: Terms) -> Side:
        """Bias [U] with the user's linear terms, vectors [U, 0]."""
        return Side(self.bias + terms.linear.sum(1), terms.linear.new_zeros(len(terms.linear), 0))

    def item_side(self, terms: Terms) -> Side:
        """Bias [I] with the item's linear terms, vectors [I, 0]."""
        return Side(terms.linear.sum(1), terms.linear.new_zeros(len(terms.linear), 0))

    @abstractmethod
    def deep(self, factors: Tensor) -> Tensor:
        """What the fields of both sides add to the factorized score: ``factors`` [B, F, W] to [B]."""

    def forward(self, linear: Tensor, factors: Tensor) -> Tensor:
        """The factorized score plus ``deep``: ``linear`` [B, F] and ``factors`` [B, F, W] to [B]."""
        return super().forward(linear, factors) + self.deep(factors)


class Pairwise(ABC):
    """A head whose score is exactly ``bias`` plus the sum of ``linear`` plus the sum of ``pairs``."""

    @abstractmethod
    def pairs(self, factors: Tensor) -> Tensor:
        """Contribution of each pair of fields f < g, above the diagonal of [B, F, F], from ``factors`` [B, F, W]."""


def interaction(factors: Tensor) -> Tensor:
    """Elementwise products of all pairs of fields, added up: ``factors`` [B, F, K] to [B, K]."""
    return 0.5 * (factors.sum(1).square() - factors.square().sum(1))


def pair_sum(factors: Tensor) -> Tensor:
    """Inner products of all pairs of fields, added up: ``factors`` [B, F, K] to [B]."""
    return interaction(factors).sum(1)
