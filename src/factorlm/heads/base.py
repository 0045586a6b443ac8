"""What a head receives and gives. Shapes: B rows, U users, I items, F fields, K factors, D dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Terms(NamedTuple):
    """What the fields of one or both sides contribute: ``linear`` [B, F] and ``factors`` [B, F, K]."""

    linear: Tensor
    factors: Tensor

    def join(self, other: Terms) -> Terms:
        """The fields of both, row by row."""
        return Terms(torch.cat([self.linear, other.linear], 1), torch.cat([self.factors, other.factors], 1))


class Side(NamedTuple):
    """One side of a factorized score: ``bias`` [B] and ``vectors`` [B, D]; user plus item bias plus dot product."""

    bias: Tensor
    vectors: Tensor
