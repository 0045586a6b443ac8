"""The interface of an objective.

Where processes share a batch, a loss is so weighted that its average over them is the loss of the whole batch.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from torch import Tensor

from factorlm.errors import UserError

Negatives = Literal["uniform", "popularity", "in_batch"]


class SampledObjective(Protocol):
    """A loss over one positive and some candidates for each row.

    Attributes:
        negatives: what the candidates are: items drawn for each step and shared by its rows, uniformly or by their
            number of training rows; or the positives of the other rows.
        num_negatives: how many are drawn.
    """

    negatives: Negatives
    num_negatives: int

    def __call__(self, positive: Tensor, candidates: Tensor, log_rate: Tensor) -> Tensor:
        """Mean loss of ``positive`` [B] against ``candidates`` [B, C]; a candidate of score -inf is left out.

        ``log_rate`` [C] is the log of how many times each was expected to be drawn.
        """
        ...


class PointwiseObjective(Protocol):
    """A loss over labelled rows."""

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits ``scores`` [B] against ``labels`` [B], 0 or 1."""
        ...


def require_negatives(negatives: str, num_negatives: int) -> None:
    """Refuse what cannot be drawn.

    Raises:
        UserError: an unknown way, or a number that does not go with it.
    """
    if negatives not in get_args(Negatives):
        raise UserError(f"objective.negatives={negatives}: it must be one of {', '.join(get_args(Negatives))}")
    if num_negatives < 1 and negatives != "in_batch":
        raise UserError(f"objective.num_negatives={num_negatives}: it must be 1 or more")
