"""The torchmetrics shell of the ranking metrics: it collects per-user values and means them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from factorlm.errors import UserError
from factorlm.metrics.ranks import NAMES, positive_ranks, ranking_metrics


class RankingMetrics(Metric):
    """Per-user precision, recall, F1, NDCG, hit rate and MRR at cut-offs; see `ranking_metrics` for definitions.

    The state is every user's values, not their sums, so that arms can be compared user by user; it is gathered over
    processes.

    Args:
        ks: cut-offs.
    """

    full_state_update = False
    users: list[Tensor]
    values: list[Tensor]

    def __init__(self, ks: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not ks or min(ks) < 1:
            raise UserError(f"metrics.ks={list(ks)}: give cut-offs of 1 or more")
        self.ks = [int(k) for k in ks]
        self.names = [f"{name}@{k}" for k in self.ks for name in NAMES]
        self.add_state("users", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, users: Tensor, scores: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Add a batch of users.

        Args:
            users: [U] their indices.
            scores: [U, N] of the candidates, -inf where excluded.
            rows, columns: [P] position of each held-out positive in ``scores``.
        """
        metrics = ranking_metrics(positive_ranks(scores, rows, columns), rows, len(users), self.ks)
        self.users.append(users)
        self.values.append(torch.stack([metrics[name] for name in self.names], 1))

    def compute(self) -> dict[str, float]:
        """Mean of each metric over the users who have a positive."""
        means = self.per_user()[1].nanmean(0)
        return dict(zip(self.names, means.tolist(), strict=True))

    def per_user(self) -> tuple[Tensor, Tensor]:
        """User indices [U] in ascending order and their values [U, M] in the order of ``names``; NaN: no positive."""
        users, values = dim_zero_cat(self.users), dim_zero_cat(self.values)
        order = users.argsort()
        return users[order], values[order]
