"""Score the labelled rows of a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from factorlm.data.prepared import Prepared
from factorlm.data.rules import PARTS
from factorlm.errors import UserError
from factorlm.evaluation.base import Evaluation, share, user_table, with_values
from factorlm.evaluation.histories import History, contexts_of, parts_before
from factorlm.metrics.pointwise import PointwiseMetrics
from factorlm.scoring import Contexts, Scorer


class RowBatch(NamedTuple):
    """Rows of a part [B]: their numbers in it, places of context and item in the task's, labels 0 or 1."""

    rows: Tensor
    places: Tensor
    items: Tensor
    labels: Tensor


@dataclass(frozen=True)
class RowTask:
    """The labelled rows of a part, in the order of the source.

    Attributes:
        contexts: [V] users that occur and what each had before, ascending; one for each row where each is asked in its
            own question and the rows before it may be read.
        items: [N] indices that occur, ascending.
        places, item_places: [n] of each row in them.
        labels: [n], 0 or 1.
    """

    contexts: Contexts
    items: Tensor
    places: Tensor
    item_places: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[RowBatch]:
        """Yield the rows in batches of ``size``, those of a context together, so that what they share is computed once.

        In a process group, each process yields its share.
        """
        order = self.places.argsort(stable=True)
        for start in share(len(self.labels), size):
            rows = order[start : start + size]
            yield RowBatch(rows, self.places[rows], self.item_places[rows], self.labels[rows])

    @torch.no_grad()
    def scored(self, scorer: Scorer, batch_size: int) -> Tensor:
        """Scores [n] of all rows, in their order."""
        catalogue, scores = scorer.catalogue(self.contexts, self.items), torch.empty(len(self))
        for batch in self.batches(batch_size):
            scores[batch.rows] = catalogue.pairs(batch.places, batch.items).float()
        return scores


def row_task(prepared: Prepared, part: str, history: History = "train") -> RowTask:
    """The labelled rows of a part.

    A model reads as a user's history the rows of training or, with ``history="earlier"``, of all earlier parts and,
    where each row is its own question (``split.target``), what the user had before it.

    Raises:
        UserError: they have one class only.
    """
    split = prepared.split
    labels = split.labels[part]
    if labels.all() or not labels.any():
        raise UserError(
            f"all {len(labels)} {part} rows have label {int(labels[0])}: task=pointwise needs both; "
            "set dataset.negatives=keep and a dataset.min_value that some rows miss"
        )
    also = split.passed[part] if history == "earlier" and len(split.passed[part][0]) else None
    if also is None:
        users, user_places = np.unique(split.users[part], return_inverse=True)
    else:
        users, user_places = split.query_users[part], split.queries[part]
    items, item_places = np.unique(split.items[part], return_inverse=True)
    columns = items, user_places, item_places, labels.astype(np.int64)
    contexts = contexts_of(prepared, users, parts_before(part, history), also)
    return RowTask(contexts, *(torch.from_numpy(column) for column in columns))


@dataclass(frozen=True)
class PointwiseEvaluator:
    """Evaluate scorers on labelled rows.

    Args:
        prepared: data and split.
        metrics: their names and definitions.
        batch_size: rows scored at once.
        history: which rows of a user a model may read.
        threshold: of precision, recall, F1 and accuracy on test; None: the one of the best F1 on valid.
    """

    prepared: Prepared
    metrics: PointwiseMetrics
    batch_size: int
    history: History = "train"
    threshold: float | None = None

    @property
    def names(self) -> list[str]:
        """Metrics by which weights can be selected; the larger the better."""
        return [name for name in self.metrics.names if name not in ("logloss", "calibration")]

    @property
    def definitions(self) -> list[str]:
        """Every metric with its version."""
        return self.metrics.definitions

    @property
    def suffix(self) -> str:
        """What follows the names of metrics."""
        return ""

    def protocol(self) -> dict[str, str]:
        """What this evaluation adds to the protocol."""
        return {"candidates": "the rows themselves", "exclusion": "none"}

    def task(self, part: str) -> RowTask:
        """The rows of a part."""
        return row_task(self.prepared, part, self.history)

    def check(self) -> None:
        """Refuse before training what could not be evaluated after it; errors are those of `row_task`."""
        for part in PARTS[1:]:
            self.task(part)

    @torch.no_grad()
    def evaluate(self, scorer: Scorer, part: str) -> Evaluation:
        """All pointwise metrics of a scorer on a part."""
        threshold = None if part == "valid" else self.threshold
        if part != "valid" and threshold is None:
            threshold = self._scored(scorer, "valid", None).details().threshold
        metrics = self._scored(scorer, part, threshold)
        found, (rows, users, labels, scores) = metrics.details(), metrics.rows()
        split, frames = self.prepared.split, self.prepared.frames
        table = pl.DataFrame({
            "user_id": frames["user"]["user_id"].gather(pl.Series(users.numpy())),
            "item_id": frames["item"]["item_id"].gather(pl.Series(split.items[part][rows.numpy()])),
            "label": labels.numpy(),
            "score": scores.numpy(),
            "probability": scores.sigmoid().numpy(),
        })  # fmt: skip
        per_user = with_values(user_table(self.prepared, found.users), found.users, found.shares).drop("user")
        dropped = int(found.shares["uauc"].isnan().sum())
        extra = {"threshold": found.threshold, "uauc_users": len(found.users) - dropped, "uauc_dropped": dropped}
        return Evaluation(found.values | extra, per_user, table, "rows")

    def _scored(self, scorer: Scorer, part: str, threshold: float | None) -> PointwiseMetrics:
        metrics, task = PointwiseMetrics(threshold), self.task(part)
        catalogue = scorer.catalogue(task.contexts, task.items)
        for batch in task.batches(self.batch_size):
            scores = catalogue.pairs(batch.places, batch.items).float()
            metrics.update(batch.rows, task.contexts.users[batch.places], batch.labels, scores)
        return metrics
