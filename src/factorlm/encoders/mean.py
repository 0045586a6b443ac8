"""Mean of the history."""

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.encoders.base import CausalEncoder
from factorlm.errors import UserError


class Mean(CausalEncoder):
    r"""The mean of the items' vectors, with weights that fall with age.

    .. math:: h_t = \sum_{s \le t} d^{t-s} v_s / \sum_{s \le t} d^{t-s}

    With d = 1 it is the history of SVD++ and FISM (Koren, KDD 2008; Kabbur et al., KDD 2013).

    Args:
        max_history_len: items, the latest, that are read.
        decay: d, weight of an item relative to the next one.
    """

    def __init__(self, num_factors: int, *, max_history_len: int, decay: float) -> None:
        super().__init__(max_history_len)
        if not 0 < decay <= 1:
            raise UserError(f"encoder.decay={decay:g}: it must be above 0 and at most 1")
        self._decay = decay

    def forward(self, items: Tensor) -> Tensor:
        """See `CausalEncoder`."""
        steps = torch.arange(items.shape[1], device=items.device)
        weights = torch.pow(self._decay, (steps.unsqueeze(1) - steps).clamp(min=0).to(items.dtype)).tril()
        return (weights / weights.sum(1, keepdim=True)) @ items
