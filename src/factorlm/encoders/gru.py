"""Gated recurrent units."""

from __future__ import annotations

from torch import Tensor, nn

from factorlm.encoders.base import CausalEncoder, require_share
from factorlm.errors import UserError


class GRU(CausalEncoder):
    """GRU4Rec: the state of gated recurrent units after each item, projected back to K.

    B. Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016.

    Args:
        num_factors: K.
        max_history_len: items, the latest, that are read.
        num_layers: of units.
        hidden_size: numbers in a state.
        dropout: of the inputs in training.
    """

    def __init__(
        self, num_factors: int, *, max_history_len: int, num_layers: int, hidden_size: int, dropout: float
    ) -> None:
        super().__init__(max_history_len)
        require_share(dropout)
        for key, value in (("num_layers", num_layers), ("hidden_size", hidden_size)):
            if value < 1:
                raise UserError(f"encoder.{key}={value}: it must be 1 or more")
        self.dropout = nn.Dropout(dropout)
        self.scale = num_factors**0.5
        self.units = nn.GRU(num_factors, hidden_size, num_layers, batch_first=True)
        self.project = nn.Linear(hidden_size, num_factors)

    def forward(self, items: Tensor) -> Tensor:
        """See `CausalEncoder`."""
        states: Tensor = self.project(self.units(self.dropout(items * self.scale))[0])
        return states
