"""What every evaluation gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from factorlm.data.prepared import Prepared
from factorlm.parallel import place


@dataclass(frozen=True)
class Evaluation:
    """A scorer on one part of a split.

    Attributes:
        values: each metric, as in ``{"ndcg@10": 0.1}``.
        per_user: ``user_id``, ``train_interactions`` and a column for each metric that users have a value of; its mean
            over users is the metric, null where a user has none.
        table: what was recommended or scored, row by row; see ``table_name``.
        table_name: ``topk`` or ``rows``.
    """

    values: dict[str, float]
    per_user: pl.DataFrame
    table: pl.DataFrame
    table_name: str

    def named(self, part: str) -> dict[str, Any]:
        """The values by part, as in ``{"test/ndcg@10": 0.1}``; None for a metric that no user has a value of."""
        return {f"{part}/{name}": None if np.isnan(value) else value for name, value in self.values.items()}


def user_table(prepared: Prepared, users: Tensor) -> pl.DataFrame:
    """``user`` (index), ``user_id`` and ``train_interactions`` of users."""
    ids, index = prepared.frames["user"]["user_id"], users.numpy()
    counts = np.bincount(prepared.split.users["train"], minlength=len(ids))
    return pl.DataFrame({"user": index, "user_id": ids.gather(pl.Series(index)), "train_interactions": counts[index]})


def share(number: int, size: int) -> range:
    """Starts of the batches of ``size`` rows out of ``number``; in a process group, those of this process."""
    process, processes = place()
    return range(process * size, number, processes * size)


def gathered(tables: list[pl.DataFrame]) -> pl.DataFrame:
    """One table of several; in a process group, of those of all processes."""
    parts = [tables]
    _, processes = place()
    if processes > 1:
        parts = [tables] * processes
        torch.distributed.all_gather_object(parts, tables)
    return pl.concat(table for part in parts for table in part)


def with_values(users: pl.DataFrame, index: Tensor, values: dict[str, Tensor]) -> pl.DataFrame:
    """Add the values of users ``index`` as columns to the table of ``users``, whose column ``user`` is their index."""
    columns = {name: pl.Series(value.numpy()) for name, value in values.items()}
    added = pl.DataFrame({"user": pl.Series(index.numpy()), **columns}).with_columns(
        pl.col(pl.Float64, pl.Float32).fill_nan(None)
    )
    return users.join(added, on="user", how="left", maintain_order="left")
