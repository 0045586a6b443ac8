"""Sparse linear item-item weights. Shapes: C contexts, I items, N candidates."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.catalogues import SparseCatalogue, SparseMatrix
from factorlm.baselines.histories import check_recency, history_rows
from factorlm.baselines.interactions import gram, positive_matrix
from factorlm.baselines.slim_kernel import elastic_net
from factorlm.errors import UserError
from factorlm.scoring import Contexts


class SLIM(Baseline):
    r"""Each item is predicted from the others by an elastic net without negative weights.

    .. math::
        \min_W \tfrac12 \|X - XW\|_F^2 + \tfrac{l_2}{2} \|W\|_F^2 + l_1 \|W\|_1, \quad W \ge 0,\ \mathrm{diag}(W) = 0,
        \quad s_c = x_c W

    X [U, I] are the positive training rows, x_c the row of the history. X. Ning and G. Karypis, SLIM: sparse linear
    methods for top-N recommender systems, ICDM 2011, equation 3. scikit-learn's ``ElasticNet`` is the same with
    alpha = (l1 + l2) / U and l1_ratio = l1 / (l1 + l2). An item without a positive training row scores 0, and so do all
    where the history is empty.

    Args:
        l1: weight of the absolute penalty, in users; the larger, the fewer weights.
        l2: weight of the squared penalty, in users.
        tolerance: coordinate descent ends for an item when no weight moved by more in a round.
        recency: weight of a history item against the next later one, in (0, 1]; see `history_rows`.
    """

    def __init__(self, l1: float, l2: float, tolerance: float, recency: float) -> None:
        super().__init__()
        for key, value in (("l1", l1), ("l2", l2)):
            if value < 0:
                raise UserError(f"baseline.{key}={value:g}: it must be 0 or more")
        if tolerance <= 0:
            raise UserError(f"baseline.tolerance={tolerance:g}: it must be above 0")
        check_recency(recency)
        self._l1, self._l2, self._tolerance, self._recency = l1, l2, tolerance, recency
        self.weights = SparseMatrix()

    def fit(self, data: TrainingData) -> None:
        """Solve for the weights into each item by coordinate descent on the Gram matrix."""
        size, together = data.num_items, gram(positive_matrix(data))
        solutions = [elastic_net(together, item, self._l1, self._l2, self._tolerance) for item in range(size)]
        columns, values = (np.concatenate(parts) for parts in zip(*solutions, strict=True))
        offsets = np.cumsum([0, *(len(active) for active, _ in solutions)])
        weights = sp.csr_array((values.astype(np.float32), columns, offsets), shape=(size, size))
        weights.sort_indices()
        self.weights.keep(weights)

    def catalogue(self, contexts: Contexts, items: Tensor) -> SparseCatalogue:
        """Fix contexts [C] and candidates [N]."""
        weights = self.weights.matrix()
        num_items = weights.shape[1]
        return SparseCatalogue(
            lambda places: history_rows(contexts[places], num_items, self._recency), weights[items.numpy()]
        )
