"""Binary cross-entropy over labelled rows, for a pointwise task."""

from __future__ import annotations

from torch import Tensor, nn

from factorlm.parallel import weight


class LogLoss(nn.Module):
    """-log sigmoid(s) for a positive row, -log(1 - sigmoid(s)) for a negative one, averaged over rows."""

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits ``scores`` [B] against ``labels`` [B], 0 or 1."""
        loss = nn.functional.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype))
        return loss * weight(len(scores))
