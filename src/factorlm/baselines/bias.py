"""The user mean plus the item mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Bias(nn.Module):
    """Score of a pair: the user's mean interaction rate plus the item's, each over the training matrix.

    Between items of one user this is the order by popularity; an unseen item gets 0 from its side.
    """

    user_rate: Tensor
    item_rate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("user_rate", torch.zeros(0))
        self.register_buffer("item_rate", torch.zeros(0))

    def fit(self, users: Tensor, items: Tensor, num_users: int, num_items: int) -> None:
        """Count the training pairs ``users`` [n], ``items`` [n]."""
        self.user_rate = torch.bincount(users, minlength=num_users) / num_items
        self.item_rate = torch.bincount(items, minlength=num_items) / num_users

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Score pairs of user and item indices: [B]."""
        return self.user_rate[users] + self.item_rate[items]

    def catalogue(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        """Fix the candidates [I] once; the result maps user indices [U] to scores [U, I]."""
        return lambda users: self.user_rate[users].unsqueeze(1) + self.item_rate[items]
