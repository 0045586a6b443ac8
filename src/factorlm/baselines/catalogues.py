"""Catalogues that baselines share. Shapes: V contexts, N candidates, D dimensions, U and B some places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from factorlm.scoring import TILE


class AdditiveCatalogue:
    """A term of each context [V] plus a term of each item [N]."""

    def __init__(self, context: Tensor, item: Tensor) -> None:
        self._context, self._item = context, item

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N] of contexts, given by their places [U], against all items."""
        return self._context[places].unsqueeze(1) + self._item

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        return self._context[places] + self._item[columns]


class SparseMatrix(nn.Module):
    """A matrix of compressed sparse rows that a checkpoint keeps."""

    offsets: Tensor
    indices: Tensor
    values: Tensor
    shape: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("offsets", "indices", "shape"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(0))

    def keep(self, matrix: sp.csr_array) -> None:
        """Replace the content."""
        self.offsets, self.indices, self.shape = (
            torch.tensor(part, dtype=torch.int64) for part in (matrix.indptr, matrix.indices, matrix.shape)
        )
        self.values = torch.tensor(matrix.data, dtype=torch.float32)

    def matrix(self) -> sp.csr_array:
        """The content, float32."""
        parts = self.values.numpy(), self.indices.numpy(), self.offsets.numpy()
        return sp.csr_array(parts, shape=tuple(self.shape.tolist()))


class SparseCatalogue:
    """Scores that are a product of dense rows and sparse columns; each adds up in the order of its column's entries.

    Args:
        rows: places [U] of contexts, at most ``TILE``, to their vectors [U, D].
        columns: [N, D] of the items.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor], columns: sp.csr_array) -> None:
        self._rows, self._columns = rows, columns

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N] of contexts, given by their places [U], against all items."""
        scores = torch.empty(len(places), self._columns.shape[0])
        for start in range(0, len(places), TILE):
            tile = places[start : start + TILE]
            scores[start : start + TILE] = self._tile(tile)
        return scores

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        scores = torch.empty(len(places))
        for start in range(0, len(places), TILE):
            tile, chosen = places[start : start + TILE], columns[start : start + TILE]
            scores[start : start + TILE] = self._tile(tile)[torch.arange(len(tile)), chosen]
        return scores

    def _tile(self, places: Tensor) -> Tensor:
        return sparse_product(self._columns, self._rows(places)).T


def sparse_product(matrix: sp.csr_array, rows: Tensor) -> Tensor:
    """``matrix @ rows.T`` [N, U] of a matrix [N, D] and at most ``TILE`` rows [U, D]."""
    padded = nn.functional.pad(rows, (0, 0, 0, TILE - len(rows)))  # one column alone is added up another way
    return torch.from_numpy(matrix @ np.ascontiguousarray(padded.numpy().T))[:, : len(rows)]
