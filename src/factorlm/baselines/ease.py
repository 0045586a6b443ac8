"""Linear item-item weights in closed form. Shapes: C contexts, I items, N candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.histories import check_recency, history_rows
from factorlm.baselines.interactions import gram, positive_matrix
from factorlm.errors import UserError
from factorlm.scoring import Contexts, ProductCatalogue


class EASE(Baseline):
    r"""Each item is predicted from the others by a ridge regression whose diagonal is zero.

    .. math::
        \min_B \|X - XB\|_F^2 + \|\Lambda^{1/2} B\|_F^2, \quad \mathrm{diag}(B) = 0

        P = (X'X + \Lambda)^{-1}, \quad B_{ij} = -P_{ij} / P_{jj}, \quad s_c = x_c B

    X [U, I] are the positive training rows, x_c the row of the history. H. Steck, Embarrassingly shallow autoencoders
    for sparse data, WWW 2019: Lambda = l2 I. H. Steck, Autoencoders that don't overfit towards the identity, NeurIPS
    2020 (EDLAE), drops inputs out in expectation: Lambda = l2 I + p / (1 - p) diag(X'X). An item without a positive
    training row scores 0, and so do all where the history is empty. The inverse is taken in float64 and in memory of
    2 * 8 * I^2 bytes.

    Args:
        l2: weight of the penalty, in users.
        dropout: p, the share of inputs dropped out, in [0, 1); 0 is EASE as first published.
        recency: weight of a history item against the next later one, in (0, 1]; see `history_rows`.
    """

    weights: Tensor

    def __init__(self, l2: float, dropout: float, recency: float) -> None:
        super().__init__()
        if l2 <= 0:
            raise UserError(f"baseline.l2={l2:g}: it must be above 0, or items of the same users have no solution")
        if not 0 <= dropout < 1:
            raise UserError(f"baseline.dropout={dropout:g}: it must be 0 or more and below 1")
        check_recency(recency)
        self._l2, self._dropout, self._recency = l2, dropout, recency
        self.register_buffer("weights", torch.zeros(0))  # [I, I]: row j holds the weights into item j

    def fit(self, data: TrainingData) -> None:
        """Invert the Gram matrix."""
        inverse = torch.from_numpy(gram(positive_matrix(data))).double()
        diagonal = inverse.diagonal()
        diagonal += self._l2 + self._dropout / (1 - self._dropout) * diagonal
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(inverse))
        self.weights = (-inverse / inverse.diagonal().unsqueeze(1)).fill_diagonal_(0).float()

    def catalogue(self, contexts: Contexts, items: Tensor) -> ProductCatalogue:
        """Fix contexts [C] and candidates [N]."""
        return ProductCatalogue(
            lambda places: history_rows(contexts[places], len(self.weights), self._recency), self.weights[items]
        )
