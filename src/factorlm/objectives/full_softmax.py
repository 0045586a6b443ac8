"""Cross-entropy over every training item."""

from __future__ import annotations

from torch import Tensor, nn

from factorlm.objectives.logsumexp import logsumexp


class FullSoftmax(nn.Module):
    """-log softmax of the positive among all training items: log sum_j exp s_j - s_+."""

    num_negatives: int | None = None

    def forward(self, positive: Tensor, candidates: Tensor) -> Tensor:
        """``positive`` [B] stands also among ``candidates`` [B, C]; the mean loss."""
        return (logsumexp(candidates) - positive).mean()
