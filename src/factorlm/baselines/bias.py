"""The user mean plus the item mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.catalogues import AdditiveCatalogue
from factorlm.errors import UserError
from factorlm.scoring import Contexts


class Bias(Baseline):
    """A term for the user plus a term for the item.

    Fitted on positives alone the terms are interaction rates over the training matrix: between items of one user the
    order by popularity. Fitted on labelled rows they are log odds of the user's and of the item's share of positives,
    each smoothed towards the overall share, and the score is a logit. What is unseen in training adds 0.

    With ``latest`` the user's share is that of the latest labelled rows before what is asked, so that a user without
    training rows has one, too.

    Args:
        prior: rows of the overall share that a user's or item's own share is smoothed with.
        latest: number of rows that a user's share is taken of; None: all training rows.
    """

    logits = True
    bias: Tensor
    user_rate: Tensor
    item_rate: Tensor

    def __init__(self, prior: float, latest: int | None) -> None:
        super().__init__()
        if prior <= 0:
            raise UserError(f"baseline.prior={prior:g}: it must be above 0 rows")
        if latest is not None and latest < 1:
            raise UserError(f"baseline.latest={latest}: it must be 1 row or more, or null for those of training")
        self._prior, self._latest = prior, latest
        for name in ("bias", "user_rate", "item_rate"):
            self.register_buffer(name, torch.zeros(0))

    def fit(self, data: TrainingData) -> None:
        """Count rows and positives of each user and item."""
        sides = ((data.users, data.num_users), (data.items, data.num_items))
        if data.labels.all():
            if self._latest is not None:
                raise UserError(
                    f"baseline.latest={self._latest} is for labelled rows: set task=pointwise, or latest=null"
                )
            self.bias = torch.zeros(())
            self.user_rate = torch.bincount(data.users, minlength=data.num_users) / data.num_items
            self.item_rate = torch.bincount(data.items, minlength=data.num_items) / data.num_users
            return
        rate = data.labels.double().mean()
        self.bias = rate.logit().float()
        self.user_rate, self.item_rate = (self._log_odds(index, data.labels, size, rate) for index, size in sides)

    def catalogue(self, contexts: Contexts, items: Tensor) -> AdditiveCatalogue:
        """Fix contexts [C] and candidates [N]; histories play a part with ``latest``."""
        user = self.user_rate[contexts.users] if self._latest is None else self._latest_rate(contexts)
        return AdditiveCatalogue(self.bias + user, self.item_rate[items])

    def _latest_rate(self, contexts: Contexts) -> Tensor:
        """Log odds of each context's latest rows [C]."""
        rated = contexts.rated
        assert rated is not None
        assert self._latest is not None
        before = nn.functional.pad(rated.labels.long().cumsum(0), (1, 0))
        starts = torch.maximum(rated.starts, rated.ends - self._latest)
        return self._smoothed(before[rated.ends] - before[starts], rated.ends - starts, self.bias.double().sigmoid())

    def _log_odds(self, index: Tensor, labels: Tensor, size: int, rate: Tensor) -> Tensor:
        """Smoothed log odds of positives by index, minus those of the overall rate: [size]."""
        positives = torch.bincount(index, weights=labels.double(), minlength=size)
        return self._smoothed(positives, torch.bincount(index, minlength=size), rate)

    def _smoothed(self, positives: Tensor, count: Tensor, rate: Tensor) -> Tensor:
        """Log odds of shares, smoothed, minus those of the overall rate."""
        return (((positives + self._prior * rate) / (count + self._prior)).logit() - rate.logit()).float()
