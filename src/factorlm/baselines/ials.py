"""Implicit-feedback matrix factorization by alternating least squares. Shapes: C contexts, I items, K factors."""

from __future__ import annotations

import scipy.sparse as sp
import torch
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.interactions import positive_matrix
from factorlm.errors import UserError
from factorlm.scoring import Contexts, ProductCatalogue


class IALS(Baseline):
    r"""Weighted matrix factorization, fitted by the library ``implicit`` on one thread.

    .. math::
        \min \sum_{u,i} c_{ui} (x_{ui} - \langle p_u, q_i \rangle)^2 + \lambda (\|P\|_F^2 + \|Q\|_F^2)

    with confidence c = alpha where a user has a positive training row and 1 elsewhere. Y. Hu, Y. Koren and C. Volinsky,
    Collaborative filtering for implicit feedback datasets, ICDM 2008. The factor of a context is the best one for its
    history given the item factors,

    .. math:: p_c = (Q'Q + (\alpha - 1) Q_h'Q_h + \lambda I)^{-1} \alpha \sum_{i \in h} q_i

    so it needs no training row of the user. An item without a positive training row scores 0, and so do all where the
    history is empty.

    Args:
        num_factors: K.
        l2: lambda.
        alpha: confidence of a positive.
        iterations: rounds of solving for all users, then for all items.
    """

    item_factors: Tensor

    def __init__(self, num_factors: int, l2: float, alpha: float, iterations: int) -> None:
        super().__init__()
        for key, number in (("num_factors", num_factors), ("iterations", iterations)):
            if number < 1:
                raise UserError(f"baseline.{key}={number}: it must be 1 or more")
        for key, weight in (("l2", l2), ("alpha", alpha)):
            if weight <= 0:
                raise UserError(f"baseline.{key}={weight:g}: it must be above 0")
        self._num_factors, self._l2, self._alpha, self._iterations = num_factors, l2, alpha, iterations
        self.register_buffer("item_factors", torch.zeros(0))

    def fit(self, data: TrainingData) -> None:
        """Alternate least squares from normal random factors, drawn by the seed of the run."""
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=self._num_factors,
                regularization=self._l2,
                alpha=self._alpha,
                iterations=self._iterations,
                num_threads=1,
                random_state=data.seed,
            )
            model.fit(sp.csr_matrix(positive_matrix(data)), show_progress=False)
        self.item_factors = torch.tensor(model.item_factors)

    def catalogue(self, contexts: Contexts, items: Tensor) -> ProductCatalogue:
        """Fix contexts [C] and candidates [N]; the factors of all contexts are found here."""
        factors = self.item_factors.double()
        ridge = factors.T @ factors + self._l2 * torch.eye(self._num_factors, dtype=torch.float64)
        context_factors = torch.zeros(len(contexts), self._num_factors)
        for place, (start, end) in enumerate(zip(contexts.starts.tolist(), contexts.ends.tolist(), strict=True)):
            had = factors[contexts.log[start:end].unique()]
            system = torch.linalg.cholesky(ridge + (self._alpha - 1) * had.T @ had)
            right = self._alpha * had.sum(0).unsqueeze(1)
            context_factors[place] = torch.cholesky_solve(right, system).squeeze(1).float()
        return ProductCatalogue(lambda places: context_factors[places], self.item_factors[items])
