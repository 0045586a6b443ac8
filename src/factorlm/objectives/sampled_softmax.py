"""Cross-entropy over the positive and a sample of items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.objectives.logsumexp import logsumexp


class SampledSoftmax(nn.Module):
    """-log softmax of the positive among itself and uniformly drawn items.

    Y. Bengio and J.-S. Senecal, Adaptive Importance Sampling, 2008. Uniform draws need no logQ correction but a shift
    that is equal for all negatives; it is left out, as is usual.

    Args:
        num_negatives: items drawn for each step, shared by its rows.
    """

    def __init__(self, num_negatives: int) -> None:
        super().__init__()
        self.num_negatives: int | None = num_negatives

    def forward(self, positive: Tensor, candidates: Tensor) -> Tensor:
        """Mean loss of ``positive`` [B] against ``candidates`` [B, C]."""
        return (logsumexp(torch.cat([positive.unsqueeze(1), candidates], 1)) - positive).mean()
