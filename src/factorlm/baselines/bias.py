"""The user mean plus the item mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PRIOR = 10.0  # rows of the overall rate that a user's or item's own rate is smoothed with


class Bias(nn.Module):
    """A term for the user plus a term for the item.

    Fitted on positives alone the terms are interaction rates over the training matrix: between items of one user the
    order by popularity. Fitted on labelled rows they are log odds of the user's and of the item's share of positives,
    each smoothed with ten rows of the overall share, and the score is a logit. What is unseen in training adds 0.
    """

    bias: Tensor
    user_rate: Tensor
    item_rate: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("bias", "user_rate", "item_rate"):
            self.register_buffer(name, torch.zeros(0))

    def fit(self, users: Tensor, items: Tensor, labels: Tensor, num_users: int, num_items: int) -> None:
        """Fit training rows: users, items and labels [n], true for a positive."""
        if labels.all():
            self.bias = torch.zeros(())
            self.user_rate = torch.bincount(users, minlength=num_users) / num_items
            self.item_rate = torch.bincount(items, minlength=num_items) / num_users
            return
        rate = labels.double().mean()
        self.bias = rate.logit().float()
        self.user_rate, self.item_rate = (
            _log_odds(index, labels, size, rate) for index, size in ((users, num_users), (items, num_items))
        )

    def catalogue(self, users: Tensor, items: Tensor) -> BiasCatalogue:
        """Fix user indices [V] and item indices [N]."""
        return BiasCatalogue(self.bias + self.user_rate[users], self.item_rate[items])


class BiasCatalogue:
    """Terms of users [V] and items [N]."""

    def __init__(self, user: Tensor, item: Tensor) -> None:
        self._user, self._item = user, item

    def cross(self, users: Tensor) -> Tensor:
        """Scores [U, N] of users, given by their places [U], against all items."""
        return self._user[users].unsqueeze(1) + self._item

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        return self._user[users] + self._item[items]


def _log_odds(index: Tensor, labels: Tensor, size: int, rate: Tensor) -> Tensor:
    """Smoothed log odds of positives by index, minus those of the overall rate: [size]."""
    positives = torch.bincount(index, weights=labels.double(), minlength=size)
    count = torch.bincount(index, minlength=size)
    return (((positives + PRIOR * rate) / (count + PRIOR)).logit() - rate.logit()).float()
