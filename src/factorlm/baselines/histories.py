"""What a context had before, as a row over the items. Shapes: C contexts, I items."""

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.errors import UserError
from factorlm.scoring import Contexts


def check_recency(recency: float) -> None:
    """Refuse a ``recency`` that is no weight.

    Raises:
        UserError: it is not above 0 and at most 1.
    """
    if not 0 < recency <= 1:
        raise UserError(
            f"baseline.recency={recency:g}: it must be above 0 and at most 1, where all items weigh the same"
        )


def history_rows(contexts: Contexts, num_items: int, recency: float) -> Tensor:
    """Rows [C, I], float32: ``recency ** p`` where an item is p places before the latest of the history, else 0.

    With ``recency`` 1 the row is binary, as the methods were published. An item that was had twice counts at its latest
    place. Only what is asked is weighted, never the training matrix.
    """
    lengths = contexts.ends - contexts.starts
    row, items = contexts.pairs()
    age = lengths.cumsum(0)[row] - 1 - torch.arange(len(row))
    weight = torch.pow(recency, age.double()).float()
    place = row * num_items + items
    rows = torch.zeros(len(contexts) * num_items).scatter_reduce_(0, place, weight, "amax")
    return rows.view(len(contexts), num_items)
