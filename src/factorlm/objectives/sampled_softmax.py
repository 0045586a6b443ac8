"""Cross-entropy over the positive and a sample of items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.objectives.base import Negatives, require_negatives
from factorlm.parallel import weight


class SampledSoftmax(nn.Module):
    r"""-log softmax of the positive among itself and drawn items.

    .. math:: \log(e^{s_+} + \sum_j e^{s_j - \log r_j}) - s_+

    r_j is how many times item j was expected to be drawn, so that the sum estimates the one over all items (logQ
    correction; Y. Bengio and J.-S. Senecal, Adaptive Importance Sampling, 2008; for items of the batch X. Yi et al.,
    Sampling-Bias-Corrected Neural Modeling, RecSys 2019).

    Args:
        negatives: ``uniform``, ``popularity`` (by training rows) or ``in_batch``.
        num_negatives: items drawn for each step, shared by its rows; not read for ``in_batch``.
        logq: whether to correct; without, r_j is 1.
    """

    def __init__(self, negatives: Negatives, num_negatives: int, logq: bool) -> None:
        super().__init__()
        require_negatives(negatives, num_negatives)
        self.negatives, self.num_negatives, self._logq = negatives, num_negatives, logq

    def forward(self, positive: Tensor, candidates: Tensor, log_rate: Tensor) -> Tensor:
        """See `SampledObjective`."""
        if self._logq:
            candidates = candidates - log_rate
        loss = (torch.cat([positive.unsqueeze(1), candidates], 1).logsumexp(1) - positive).mean()
        return loss * weight(len(positive))
