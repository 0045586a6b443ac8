"""User-based nearest neighbours. Shapes: C contexts, U users, I items, N candidates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.catalogues import SparseCatalogue, SparseMatrix, sparse_product
from factorlm.baselines.histories import check_recency, history_rows
from factorlm.baselines.interactions import positive_matrix
from factorlm.baselines.neighbours import check_neighbours
from factorlm.scoring import Contexts


class UserKNN(Baseline):
    r"""An item scores the similarities of those of the k nearest training users who have it.

    .. math::
        s_{ci} = \sum_{v \in N_k(c)} sim_{cv}\, X_{vi}, \quad
        sim_{cv} = \frac{\langle x_c, X_v \rangle}{\|x_c\| \|X_v\| + \text{shrinkage}}

    X are the positive training rows and x_c the row of the history, so that neighbours are found for histories that
    training never saw; the context's own user is no neighbour. P. Resnick et al., GroupLens, CSCW 1994, with the cosine
    of J. Herlocker et al., SIGIR 1999, and without ratings. Of equally similar users the one with the lower index is
    nearer. An item without a positive training row scores 0, and so do all where the history is empty.

    Args:
        k: neighbours of each context.
        shrinkage: added to the denominator, in items; the more, the less similarities of few items count.
        recency: weight of a history item against the next later one, in (0, 1]; see `history_rows`.
    """

    def __init__(self, k: int, shrinkage: float, recency: float) -> None:
        super().__init__()
        check_neighbours(k, shrinkage)
        check_recency(recency)
        self._k, self._shrinkage, self._recency = k, shrinkage, recency
        self.had = SparseMatrix()

    def fit(self, data: TrainingData) -> None:
        """Keep the training matrix."""
        self.had.keep(positive_matrix(data))

    def catalogue(self, contexts: Contexts, items: Tensor) -> SparseCatalogue:
        """Fix contexts [C] and candidates [N]."""
        training = self.had.matrix()
        norm = torch.from_numpy(np.sqrt(training.sum(1), dtype=np.float32))

        def neighbours(places: Tensor) -> Tensor:
            asked = contexts[places]
            rows = history_rows(asked, training.shape[1], self._recency)
            size = rows.square().sum(1, keepdim=True).sqrt()
            similarity = sparse_product(training, rows).T / (size * norm + self._shrinkage + 1e-6)
            similarity[torch.arange(len(places)), asked.users] = 0.0
            return keep_largest(similarity, self._k)

        return SparseCatalogue(neighbours, training.T.tocsr()[items.numpy()])


def keep_largest(values: Tensor, k: int) -> Tensor:
    """Set all but the k largest of each row [R, D] to 0; of equal values the first are kept."""
    if k >= values.shape[1]:
        return values
    last = values.topk(k, 1).values[:, -1:]
    larger, equal = values > last, values == last
    room = k - larger.sum(1, keepdim=True)
    return values.where(larger | equal & (equal.cumsum(1) <= room), 0.0)
