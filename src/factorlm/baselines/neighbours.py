"""Which items are near. Shapes: R rows, I items."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from factorlm.baselines.interactions import Matrix
from factorlm.errors import UserError

BLOCK = 1024  # items whose similarities to all others are in memory at once


def check_neighbours(k: int, shrinkage: float) -> None:
    """Refuse what no neighbourhood can be made of.

    Raises:
        UserError: ``k`` is below 1 or ``shrinkage`` below 0.
    """
    if k < 1:
        raise UserError(f"baseline.k={k}: it must be 1 or more")
    if shrinkage < 0:
        raise UserError(f"baseline.shrinkage={shrinkage:g}: it must be 0 or more")


def nearest(similarity: Matrix, k: int) -> sp.csr_array:
    """Keep the k largest of each row of similarities [R, I], zeros left out."""
    k = min(k, similarity.shape[1])
    chosen = np.sort(np.argpartition(-similarity, k - 1, axis=1)[:, :k], axis=1)
    values = np.take_along_axis(similarity, chosen, axis=1)
    offsets = np.arange(0, chosen.size + 1, k)
    kept = sp.csr_array((values.ravel(), chosen.ravel(), offsets), shape=similarity.shape)
    kept.eliminate_zeros()
    return kept
