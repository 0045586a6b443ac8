"""The most popular items."""

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.catalogues import AdditiveCatalogue
from factorlm.errors import UserError
from factorlm.scoring import Contexts

DAY = 86_400  # seconds


class Popularity(Baseline):
    r"""How often an item was had, of late if a half-life is set; the same for every user.

    .. math:: s_i = \sum_{r: i_r = i} 2^{-(t_{max} - t_r) / h}

    over the positive training rows r, t_max the latest of them. An item without one scores 0.

    Args:
        half_life: h, days after which a row counts half; None: every row counts 1.
    """

    item_weight: Tensor

    def __init__(self, half_life: float | None) -> None:
        super().__init__()
        if half_life is not None and half_life <= 0:
            raise UserError(f"baseline.half_life={half_life:g}: it must be above 0 days, or null for no decay")
        self._half_life = half_life
        self.register_buffer("item_weight", torch.zeros(0))

    def fit(self, data: TrainingData) -> None:
        """Add up the weights of the positive rows of each item."""
        items, times = data.items[data.labels], data.timestamps[data.labels]
        weight = torch.ones(len(items), dtype=torch.float64)
        if self._half_life is not None and len(items):
            weight = torch.exp2(-(times.max() - times).double() / (self._half_life * DAY))
        self.item_weight = torch.bincount(items, weight, minlength=data.num_items).float()

    def catalogue(self, contexts: Contexts, items: Tensor) -> AdditiveCatalogue:
        """Fix contexts [C] and candidates [N]; neither users nor histories play a part."""
        return AdditiveCatalogue(torch.zeros(len(contexts)), self.item_weight[items])
