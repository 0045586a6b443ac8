"""The torchmetrics shell of the pointwise metrics."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from factorlm.metrics import rows as core
from factorlm.metrics.per_user import first_rows


class PointwiseMetrics(Metric):
    """AUC and its kin over labelled rows, whose scores are logits; `factorlm.metrics.rows` defines each.

    The state is every row, gathered over processes; a row that arrives twice counts once.

    Args:
        threshold: from which probability a row is called positive; None: the one of the best F1 on these rows, as for
            validation.
    """

    full_state_update = False
    names: ClassVar = list(core.VERSIONS)
    keys: list[Tensor]
    users: list[Tensor]
    labels: list[Tensor]
    scores: list[Tensor]

    def __init__(self, threshold: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        for state in ("keys", "users", "labels", "scores"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @property
    def definitions(self) -> list[str]:
        """Each name with the version of its definition: a part of the protocol."""
        return [f"{name} v{version}" for name, version in core.VERSIONS.items()]

    def update(self, rows: Tensor, users: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Add n rows: their numbers, users, labels 0 or 1, and logits."""
        self.keys.append(rows)
        self.users.append(users)
        self.labels.append(labels.long())
        self.scores.append(scores.double())

    def rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All rows by number: their numbers, users, labels and logits, [n] each; over processes those of all.

        Raises:
            ValueError: a row arrived twice with different scores.
        """
        with self.sync_context():
            return self._rows()

    def _rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        columns = [dim_zero_cat(state) for state in (self.keys, self.users, self.labels, self.scores)]
        kept = first_rows(columns[0], columns[3].unsqueeze(1))
        keys, users, labels, scores = (column[kept] for column in columns)
        return keys, users, labels, scores

    def details(self) -> core.RowMetrics:
        """Metrics, and each user's share of them; over processes the rows are those of all."""
        with self.sync_context():
            return self._details()

    def compute(self) -> dict[str, float]:
        """Each metric over all rows."""
        return self._details().values

    def _details(self) -> core.RowMetrics:
        _, users, labels, scores = self._rows()
        return core.row_metrics(users, labels, scores, probabilities=False, threshold=self.threshold)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """As in `factorlm.metrics.per_user`."""
        if not self.keys:
            none = torch.empty(0, dtype=torch.int64, device=self.device)
            self.update(none, none, none, torch.empty(0, device=self.device))
        super()._sync_dist(*args, **kwargs)
