"""Attention of the scored item over the history."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.encoders.base import TargetEncoder


class Attention(TargetEncoder):
    r"""Deep interest network: each item of the history weighs as much as it has to do with the scored item.

    .. math:: h = \sum_l a(v_l, t) v_l, \quad a = \mathrm{MLP}([v_l, t, v_l - t, v_l \odot t])

    G. Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018, equation 3: weights are no
    softmax, so that their sum tells how strong the interest is; they are divided by the number of items read. The first
    layer is linear in v_l for a given t, so one matrix for each t takes the place of the four inputs.

    Args:
        num_factors: K.
        max_history_len: items, the latest, that are read.
        hidden_size: of the MLP.
    """

    def __init__(self, num_factors: int, *, max_history_len: int, hidden_size: int) -> None:
        super().__init__(max_history_len)
        self.scale = num_factors**0.5
        self.first, self.activation = nn.Linear(4 * num_factors, hidden_size), nn.PReLU()
        self.second = nn.Linear(hidden_size, 1)
        nn.init.ones_(self.second.bias)  # starts as the mean

    def forward(self, items: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """See `TargetEncoder`."""
        own, other, difference, product = (self.first.weight * self.scale).chunk(4, 1)
        by_target = (own + difference) + (product * self.scale) * target.unsqueeze(1)  # [B, hidden_size, K]
        hidden = torch.baddbmm((target @ (other - difference).T + self.first.bias).unsqueeze(1), items, by_target.mT)
        weights = self.second(self.activation(hidden)).squeeze(-1)
        inside = torch.arange(items.shape[1], device=items.device) < lengths.unsqueeze(1)
        weights = weights.masked_fill(~inside, 0.0) / lengths.clamp(min=1).unsqueeze(1)
        summed: Tensor = (weights.unsqueeze(1) @ items).squeeze(1)
        return summed
