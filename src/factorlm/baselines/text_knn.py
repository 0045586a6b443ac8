"""Nearest neighbours by text. Shapes: C contexts, I items, N candidates, H dimensions."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.catalogues import SparseCatalogue, SparseMatrix
from factorlm.baselines.histories import check_recency, history_rows
from factorlm.baselines.neighbours import BLOCK, check_neighbours, nearest
from factorlm.errors import UserError
from factorlm.scoring import Contexts


class TextKNN(Baseline):
    r"""A candidate scores the similarities of those of its k nearest items, by text, that the history holds.

    .. math::
        s_{ci} = \sum_{j \in N_k(i)} x_{cj}\, \cos(t_i - \bar t, t_j - \bar t)

    t are the backbone's text vectors, their mean taken over the items with a positive training row, x the row of the
    history. Neighbours are items with a positive training row, other than i itself; i may be an item that training
    never saw, which is then scored like any other. All score 0 where the history is empty. Nothing else is learned: the
    score is what the language model alone knows of two texts (M. Pazzani and D. Billsus, Content-based recommendation
    systems, 2007, section 10.3.2).

    Args:
        k: neighbours of each item.
        recency: weight of a history item against the next later one, in (0, 1]; see `history_rows`.
    """

    reads_texts = True

    def __init__(self, k: int, recency: float) -> None:
        super().__init__()
        check_neighbours(k, 0.0)
        check_recency(recency)
        self._k, self._recency = k, recency
        self.similarity = SparseMatrix()

    def fit(self, data: TrainingData) -> None:
        """Find the neighbours of each item.

        Raises:
            UserError: there are no text vectors.
        """
        if data.item_vectors is None:
            raise UserError("baseline=text_knn reads item texts: set backbone=minilm")
        known = torch.bincount(data.items[data.labels], minlength=data.num_items) > 0
        vectors = torch.nn.functional.normalize(data.item_vectors.float() - data.item_vectors[known].float().mean(0))
        columns = (vectors * known.unsqueeze(1)).T.numpy()
        blocks = []
        for start in range(0, data.num_items, BLOCK):
            similarity = vectors[start : start + BLOCK].numpy() @ columns
            own = np.arange(len(similarity))
            similarity[own, start + own] = 0.0
            blocks.append(nearest(similarity, self._k))
        self.similarity.keep(sp.vstack(blocks, "csr"))

    def catalogue(self, contexts: Contexts, items: Tensor) -> SparseCatalogue:
        """Fix contexts [C] and candidates [N]."""
        similarity = self.similarity.matrix()
        num_items = similarity.shape[1]
        return SparseCatalogue(
            lambda places: history_rows(contexts[places], num_items, self._recency), similarity[items.numpy()]
        )
