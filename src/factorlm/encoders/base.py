"""What a history encoder receives and gives. Shapes: W histories, L items of the longest, K factors."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from factorlm.errors import UserError


class HistoryEncoder(nn.Module, ABC):
    """The vectors of a history's items to one vector.

    Args:
        max_history_len: items, the latest, that are read.
    """

    def __init__(self, max_history_len: int) -> None:
        super().__init__()
        if max_history_len < 1:
            raise UserError(f"encoder.max_history_len={max_history_len}: it must be 1 or more")
        self.max_history_len = max_history_len


def require_share(dropout: float) -> None:
    """Refuse a dropout outside [0, 1).

    Raises:
        UserError: it is one.
    """
    if not 0 <= dropout < 1:
        raise UserError(f"encoder.dropout={dropout}: it must be at least 0 and below 1")


class CausalEncoder(HistoryEncoder):
    """A vector after each item, made of it and the items before; so all prefixes of a history cost one pass."""

    @abstractmethod
    def forward(self, items: Tensor) -> Tensor:
        """``items`` [W, L, K], oldest first and padded on the right, to the vector after each [W, L, K]."""


class TargetEncoder(HistoryEncoder):
    """A vector that depends on the item that is scored, so that it cannot be made once for all items."""

    @abstractmethod
    def forward(self, items: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """``items`` [W, L, K] of which the first ``lengths`` [W] count, seen from ``target`` [W, K]: [W, K]."""
