"""Bayesian personalized ranking."""

from __future__ import annotations

from torch import Tensor, nn

from factorlm.objectives.base import Negatives, require_negatives
from factorlm.parallel import weight


class BPR(nn.Module):
    """-log sigmoid(s_+ - s_-), averaged over rows and negatives.

    S. Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.

    Args:
        num_negatives: items drawn for each step, shared by its rows.
    """

    def __init__(self, num_negatives: int) -> None:
        super().__init__()
        require_negatives("uniform", num_negatives)
        self.negatives: Negatives = "uniform"
        self.num_negatives = num_negatives

    def forward(self, positive: Tensor, candidates: Tensor, log_rate: Tensor) -> Tensor:
        """Mean loss of ``positive`` [B] against ``candidates`` [B, C]."""
        drawn = candidates.isfinite()
        number = drawn.sum().clamp(min=1)
        return nn.functional.softplus(candidates - positive.unsqueeze(1)).sum() / number * weight(drawn.sum().item())
