"""Generalized binary cross-entropy."""

from __future__ import annotations

from torch import Tensor, nn

from factorlm.errors import UserError
from factorlm.objectives.base import Negatives, require_negatives
from factorlm.parallel import weight


class GBCE(nn.Module):
    r"""Binary cross-entropy whose positives are calibrated for how few negatives are drawn.

    .. math:: -\log \sigma(s_+)^\beta - \sum_j \log(1 - \sigma(s_j)), \quad
        \beta = \alpha \left(t (1 - 1/\alpha) + 1/\alpha\right)

    alpha is the share of items drawn. A. Petrov and C. Macdonald, gSASRec: Reducing Overconfidence in Sequential
    Recommendation Trained with Negative Sampling, RecSys 2023, equation 12. Divided by the number of negatives.

    Args:
        num_negatives: items drawn for each step, uniformly, shared by its rows.
        t: 0 is plain binary cross-entropy, 1 gives calibrated probabilities.
    """

    def __init__(self, num_negatives: int, t: float) -> None:
        super().__init__()
        require_negatives("uniform", num_negatives)
        if not 0 <= t <= 1:
            raise UserError(f"objective.t={t}: it must lie between 0 and 1")
        self.negatives: Negatives = "uniform"
        self.num_negatives, self._t = num_negatives, t

    def forward(self, positive: Tensor, candidates: Tensor, log_rate: Tensor) -> Tensor:
        """See `SampledObjective`."""
        alpha = log_rate[0].exp().clamp(max=1.0)
        beta = alpha * (self._t * (1 - 1 / alpha) + 1 / alpha)
        negative = nn.functional.softplus(candidates).sum(1)
        loss = (beta * nn.functional.softplus(-positive) + negative).mean() / candidates.shape[1]
        return loss * weight(len(positive))
