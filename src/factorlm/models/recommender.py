"""The recommender: user fields, item fields and a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from factorlm.heads.base import Side, Terms
from factorlm.heads.fm import FM


class Recommender(nn.Module):
    """Fields of two sides under a factorizable head. B rows, U users, I items, F fields, K factors.

    Args:
        user_fields, item_fields: modules that map indices [B] to ``(linear [B], factor [B, K])``.
        head: scores the fields.
        factor_l2: weight of the penalty on the factors of each training batch.
    """

    def __init__(
        self,
        user_fields: Mapping[str, nn.Module],
        item_fields: Mapping[str, nn.Module],
        head: FM,
        factor_l2: float,
    ) -> None:
        super().__init__()
        self.user_fields = nn.ModuleDict(user_fields)
        self.item_fields = nn.ModuleDict(item_fields)
        self.head = head
        self.factor_l2 = factor_l2

    def user_terms(self, users: Tensor) -> Terms:
        """Field terms of user indices [B]."""
        return _terms(self.user_fields, users)

    def item_terms(self, items: Tensor) -> Terms:
        """Field terms of item indices [B]."""
        return _terms(self.item_fields, items)

    def pair_scores(self, user: Terms, item: Terms) -> Tensor:
        """Score row b of the users against row b of the items: [B]."""
        scores: Tensor = self.head(*user.join(item))
        return scores

    def cross_scores(self, user: Terms, item: Terms) -> Tensor:
        """Score every user row against every item row: [U, I], one matrix product."""
        return _cross(self.head.user_side(user), self.head.item_side(item))

    def penalty(self, user: Terms, item: Terms) -> Tensor:
        """``factor_l2`` times the mean squared norm of the factors of a training batch."""
        return self.factor_l2 * sum(t.factors.square().sum((1, 2)).mean() for t in (user, item))  # type: ignore[return-value]

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Score pairs of user and item indices: [B]."""
        return self.pair_scores(self.user_terms(users), self.item_terms(items))

    def catalogue(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        """Fix the candidates [I] once; the result maps user indices [U] to scores [U, I]."""
        side = self.head.item_side(self.item_terms(items))
        return lambda users: _cross(self.head.user_side(self.user_terms(users)), side)


def _terms(fields: nn.ModuleDict, index: Tensor) -> Terms:
    linear, factors = zip(*(field(index) for field in fields.values()), strict=True)
    return Terms(torch.stack(linear, 1), torch.stack(factors, 1))


def _cross(user: Side, item: Side) -> Tensor:
    """The biases travel inside the product, as two more dimensions, so that no [U, I] matrix is made twice."""
    users = torch.cat([user.vectors, user.bias.unsqueeze(1), torch.ones_like(user.bias).unsqueeze(1)], 1)
    items = torch.cat([item.vectors, torch.ones_like(item.bias).unsqueeze(1), item.bias.unsqueeze(1)], 1)
    return users @ items.T
