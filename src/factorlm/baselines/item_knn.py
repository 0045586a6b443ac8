"""Item-based nearest neighbours. Shapes: C contexts, I items, N candidates."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.catalogues import SparseCatalogue, SparseMatrix
from factorlm.baselines.histories import check_recency, history_rows
from factorlm.baselines.interactions import Matrix, positive_matrix
from factorlm.baselines.neighbours import BLOCK, check_neighbours, nearest
from factorlm.scoring import Contexts


class ItemKNN(Baseline):
    r"""A candidate scores the similarities of those of its k nearest items that the history holds.

    .. math::
        s_{ci} = \sum_{j \in N_k(i)} x_{cj}\, sim_{ij}, \quad
        sim_{ij} = \frac{|U_i \cap U_j|}{\sqrt{|U_i|\,|U_j|} + \text{shrinkage}}

    U_i are the users with a positive training row of item i, x the row of the history. M. Deshpande and G. Karypis,
    Item-based top-N recommendation algorithms, TOIS 22(1), 2004, section 4.2.1. The arithmetic is RecBole's
    ``ItemKNN``, to the 1e-6 that it adds to the denominator and the choice that `numpy.argpartition` makes between
    items that are equally similar at the k-th place, which may differ between processors. An item without a positive
    training row scores 0, and so do all where the history is empty.

    Args:
        k: neighbours of each item.
        shrinkage: added to the denominator, in users; the more, the less similarities of few users count.
        recency: weight of a history item against the next later one, in (0, 1]; see `history_rows`.
    """

    def __init__(self, k: int, shrinkage: float, recency: float) -> None:
        super().__init__()
        check_neighbours(k, shrinkage)
        check_recency(recency)
        self._k, self._shrinkage, self._recency = k, shrinkage, recency
        self.similarity = SparseMatrix()

    def fit(self, data: TrainingData) -> None:
        """Find the neighbours of each item."""
        by_item = positive_matrix(data).T.tocsr()
        norm = np.sqrt(by_item.sum(1), dtype=np.float32)
        starts = range(0, data.num_items, BLOCK)
        blocks = [self._neighbours(by_item, norm, start) for start in starts]
        self.similarity.keep(sp.vstack(blocks, "csr"))

    def catalogue(self, contexts: Contexts, items: Tensor) -> SparseCatalogue:
        """Fix contexts [C] and candidates [N]."""
        similarity = self.similarity.matrix()
        num_items = similarity.shape[1]
        return SparseCatalogue(
            lambda places: history_rows(contexts[places], num_items, self._recency), similarity[items.numpy()]
        )

    def _neighbours(self, by_item: sp.csr_array, norm: Matrix, start: int) -> sp.csr_array:
        """Similarities [BLOCK, I] of some items to their neighbours."""
        block = slice(start, start + BLOCK)
        similarity = (by_item[block] @ by_item.T).toarray()
        own = np.arange(len(similarity))
        similarity[own, start + own] = 0.0
        similarity *= 1 / (norm[block, None] * norm + np.float32(self._shrinkage) + np.float32(1e-6))
        return nearest(similarity, self._k)
