"""Attention of the scored item over the history."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.encoders.base import TargetEncoder


class Attention(TargetEncoder):
    r"""Deep interest network: each item of the history weighs as much as it has to do with the scored item.

    .. math:: h = \sum_l a(v_l, t) v_l, \quad a = \mathrm{MLP}([v_l, t, v_l - t, v_l \odot t])

    G. Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018, equation 3: weights are no
    softmax, so that their sum tells how strong the interest is; they are divided by the number of items read.

    Args:
        num_factors: K.
        max_history_len: items, the latest, that are read.
        hidden_size: of the MLP.
    """

    def __init__(self, num_factors: int, *, max_history_len: int, hidden_size: int) -> None:
        super().__init__(max_history_len)
        self.scale = num_factors**0.5
        self.weigh = nn.Sequential(nn.Linear(4 * num_factors, hidden_size), nn.PReLU(), nn.Linear(hidden_size, 1))
        nn.init.ones_(self.weigh[-1].bias)  # type: ignore[arg-type]  # starts as the mean

    def forward(self, items: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """See `TargetEncoder`."""
        wide = target.unsqueeze(1).expand_as(items)
        seen = torch.cat([items, wide, items - wide, items * wide * self.scale], -1) * self.scale
        weights = self.weigh(seen).squeeze(-1)
        inside = torch.arange(items.shape[1], device=items.device) < lengths.unsqueeze(1)
        weights = weights.masked_fill(~inside, 0.0) / lengths.clamp(min=1).unsqueeze(1)
        summed: Tensor = (weights.unsqueeze(1) @ items).squeeze(1)
        return summed
