"""The recommender: user fields, item fields and a head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from factorlm.heads.base import Side, Terms
from factorlm.heads.fm import FM

TILE = 64  # users in one matrix product of an evaluation


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
        users, items = _factorized(self.head.user_side(user), self.head.item_side(item))
        return users @ items.T

    def penalty(self, user: Terms, item: Terms) -> Tensor:
        """``factor_l2`` times the mean squared norm of the factors of a training batch."""
        return self.factor_l2 * sum(t.factors.square().sum((1, 2)).mean() for t in (user, item))  # type: ignore[return-value]

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Score pairs of user and item indices: [B]."""
        return self.pair_scores(self.user_terms(users), self.item_terms(items))

    def catalogue(self, users: Tensor, items: Tensor) -> Catalogue:
        """Encode user indices [V] and item indices [N] once, to score any of their pairs."""
        return Catalogue(self.head, self.user_terms(users), self.item_terms(items))


class Catalogue:
    """Encoded users [V] and items [N]; the score of a pair is the same to the last bit, whatever is scored with it."""

    def __init__(self, head: FM, user: Terms, item: Terms) -> None:
        self._head, self._user, self._item = head, user, item
        self._rows, self._columns = _factorized(head.user_side(user), head.item_side(item))

    def cross(self, users: Tensor) -> Tensor:
        """Scores [U, N] of users, given by their places [U], against all items; without gradients.

        Products of equal shape add up in equal order, so all have ``TILE`` rows.
        """
        rows = nn.functional.pad(self._rows[users], (0, 0, 0, -len(users) % TILE))
        scores = rows.new_empty(len(rows), len(self._columns))
        for start in range(0, len(rows), TILE):
            torch.mm(rows[start : start + TILE], self._columns.T, out=scores[start : start + TILE])
        return scores[: len(users)]

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        user = Terms(self._user.linear[users], self._user.factors[users])
        item = Terms(self._item.linear[items], self._item.factors[items])
        scores: Tensor = self._head(*user.join(item))
        return scores


def _terms(fields: nn.ModuleDict, index: Tensor) -> Terms:
    linear, factors = zip(*(field(index) for field in fields.values()), strict=True)
    return Terms(torch.stack(linear, 1), torch.stack(factors, 1))


def _factorized(user: Side, item: Side) -> tuple[Tensor, Tensor]:
    """Matrices [U, D + 2] and [I, D + 2] whose product is the scores.

    The biases travel inside the product, as two more dimensions, so that no [U, I] matrix is made twice.
    """
    users = torch.cat([user.vectors, user.bias.unsqueeze(1), torch.ones_like(user.bias).unsqueeze(1)], 1)
    items = torch.cat([item.vectors, torch.ones_like(item.bias).unsqueeze(1), item.bias.unsqueeze(1)], 1)
    return users, items
