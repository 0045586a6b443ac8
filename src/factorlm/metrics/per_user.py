"""What the torchmetrics shells share: their state is every user's values, not sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class PerUserMetric(Metric):
    """Collect values of questions, gather them over processes, and mean them: over a user's questions, then over users.

    A question is one row of a score matrix. Most protocols ask each user once. A question that arrives twice, as
    samplers that pad a batch make it, counts once.

    Args:
        names: of the M values of each question.
    """

    full_state_update = False
    queries: list[Tensor]
    users: list[Tensor]
    values: list[Tensor]

    def __init__(self, names: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = names
        for state in ("queries", "users", "values"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def _add(self, queries: Tensor, users: Tensor, values: Tensor) -> None:
        self.queries.append(queries)
        self.users.append(users)
        self.values.append(values)

    def per_user(self) -> tuple[Tensor, Tensor]:
        """User indices [U] in ascending order and their values [U, M] in the order of ``names``; NaN: no positive.

        Over processes they are those of all.

        Raises:
            ValueError: a question arrived twice with different values.
        """
        with self.sync_context():
            return self._collected()

    def compute(self) -> dict[str, float]:
        """Mean of each metric over the users who have a value."""
        means = self._collected()[1].nanmean(0)
        return dict(zip(self.names, means.tolist(), strict=True))

    def _collected(self) -> tuple[Tensor, Tensor]:
        queries, users, values = (dim_zero_cat(state) for state in (self.queries, self.users, self.values))
        kept = first_rows(queries, values)
        users, index = users[kept].unique(return_inverse=True)
        values = values[kept]
        total = torch.zeros(len(users), values.shape[1], dtype=torch.float64).index_add_(0, index, values.nan_to_num(0))
        number = torch.zeros_like(total).index_add_(0, index, values.isfinite().double())
        return users, total / number

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """A process without questions takes part with typed empty states; torchmetrics would send another type."""
        if not self.queries:
            none = torch.empty(0, dtype=torch.int64, device=self.device)
            self._add(none, none, torch.empty(0, len(self.names), dtype=torch.float64, device=self.device))
        super()._sync_dist(*args, **kwargs)


def first_rows(keys: Tensor, values: Tensor) -> Tensor:
    """Positions of the first row of each key, by ascending key.

    Raises:
        ValueError: rows of one key [n] have different values [n, M].
    """
    order = keys.argsort(stable=True)
    sorted_keys, sorted_values = keys[order], values[order]
    again = sorted_keys[1:] == sorted_keys[:-1]
    alike = (sorted_values[1:] == sorted_values[:-1]) | (sorted_values[1:].isnan() & sorted_values[:-1].isnan())
    if not alike[again].all():
        key = sorted_keys[1:][again & ~alike.all(1)][0].item()
        raise ValueError(f"row {key} was evaluated twice with different values")
    return order[torch.cat([again.new_ones(min(len(order), 1)), ~again])]
