"""Linear next-item weights in closed form. Shapes: n rows, C contexts, I items, N candidates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.histories import check_recency, history_rows
from factorlm.baselines.interactions import gram, positive_matrix
from factorlm.baselines.transitions import transition_sums
from factorlm.errors import UserError
from factorlm.scoring import Contexts, ProductCatalogue


class SLIST(Baseline):
    r"""Each item is predicted from what was had before it, and from what was had beside it.

    .. math::
        \min_B \alpha \|T - SB\|_F^2 + (1 - \alpha) \|X - XB\|_F^2 + l_2 \|B\|_F^2, \quad \mathrm{diag}(B) = 0,
        \quad s_c = x_c B

    T is one-hot, the item of each positive training row but a user's first; S [n, I] is the history before it, in which
    an item p places before the latest weighs ``recency ** p``, as in the row x_c that is scored; X [U, I] are the
    positive training rows. With G = alpha S'S + (1 - alpha) X'X and H = alpha S'T + (1 - alpha) X'X

    .. math:: P = (G + l_2 I)^{-1}, \quad \hat B = PH, \quad B_{ij} = \hat B_{ij} - P_{ij} \hat B_{jj} / P_{jj}

    M. Choi, J. Kim, J. Lee, H. Shim and J. Lee, Session-aware linear item-item models for session-based recommendation,
    WWW 2021, with one item as target and an exact zero diagonal; ``alpha=0`` is `EASE`. Rows at the same time keep the
    order of the source. An item without a positive training row scores 0, and so do all where the history is empty.

    Args:
        alpha: share of the transitions, in [0, 1].
        l2: weight of the penalty, in rows.
        recency: weight of a history item against the next later one, in (0, 1]; see `history_rows`.
    """

    weights: Tensor

    def __init__(self, alpha: float, l2: float, recency: float) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"baseline.alpha={alpha:g}: it must be from 0 to 1")
        if l2 <= 0:
            raise UserError(f"baseline.l2={l2:g}: it must be above 0, or items of the same users have no solution")
        check_recency(recency)
        self._alpha, self._l2, self._recency = alpha, l2, recency
        self.register_buffer("weights", torch.zeros(0))  # [I, I]: row j holds the weights into item j

    def fit(self, data: TrainingData) -> None:
        """Sum over the transitions of each user, and solve."""
        users, items, times = (rows[data.labels].numpy() for rows in (data.users, data.items, data.timestamps))
        order = np.lexsort((times, users))
        offsets = np.searchsorted(users[order], np.arange(data.num_users + 1))
        sums = transition_sums(offsets, items[order], self._recency, data.num_items)
        beside = torch.from_numpy(gram(positive_matrix(data))).double()
        together, following = (self._alpha * torch.from_numpy(part) + (1 - self._alpha) * beside for part in sums)
        together.diagonal().add_(self._l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(together))
        weights = inverse @ following
        weights -= inverse * (weights.diagonal() / inverse.diagonal())
        self.weights = weights.fill_diagonal_(0).T.contiguous().float()

    def catalogue(self, contexts: Contexts, items: Tensor) -> ProductCatalogue:
        """Fix contexts [C] and candidates [N]."""
        return ProductCatalogue(
            lambda places: history_rows(contexts[places], len(self.weights), self._recency), self.weights[items]
        )
