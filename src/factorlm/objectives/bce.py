"""Binary cross-entropy with sampled negatives."""

from __future__ import annotations

from torch import Tensor, nn

from factorlm.objectives.base import Negatives, require_negatives
from factorlm.parallel import weight


class BCE(nn.Module):
    """-log sigmoid(s_+) - mean over negatives of log(1 - sigmoid(s_-)), averaged over rows.

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
        negative = nn.functional.softplus(candidates).sum() / drawn.sum().clamp(min=1) * weight(drawn.sum().item())
        return nn.functional.softplus(-positive).mean() * weight(len(positive)) + negative
