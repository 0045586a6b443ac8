"""The interface of an objective."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """A loss over one positive and some candidates for each row.

    Attributes:
        num_negatives: candidates drawn for each step, shared by the rows; None: every training item.
    """

    num_negatives: int | None

    def __call__(self, positive: Tensor, candidates: Tensor) -> Tensor:
        """Mean loss of ``positive`` [B] against ``candidates`` [B, C]; a candidate of score -inf is left out."""
        ...


class PointwiseObjective(Protocol):
    """A loss over labelled rows."""

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits ``scores`` [B] against ``labels`` [B], 0 or 1."""
        ...
