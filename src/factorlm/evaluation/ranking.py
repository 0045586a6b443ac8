"""Rank every candidate for every held-out user. Shapes: U users, N candidates, P positives, E exclusions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from factorlm.data.prepared import Prepared
from factorlm.data.splits import PARTS
from factorlm.metrics.ranking import RankingMetrics

Catalogue = Callable[[Tensor], Tensor]


class Scorer(Protocol):
    """Anything that scores users against fixed candidates: a `Recommender` or a baseline."""

    def catalogue(self, items: Tensor) -> Catalogue:
        """Fix the candidates [N]; the result maps user indices [U] to scores [U, N]."""
        ...


class UserBatch(NamedTuple):
    """Users [U] with the positions of their positives [P] and exclusions [E] in the score matrix."""

    users: Tensor
    rows: Tensor
    columns: Tensor
    excluded_rows: Tensor
    excluded_columns: Tensor


@dataclass(frozen=True)
class RankingTask:
    """One part of a split as a ranking problem.

    Attributes:
        candidates: [N] item indices ranked for every user.
        users: [U] user indices in ascending order.
        positives, excluded: pairs (row into ``users``, column into ``candidates``), sorted by row.
    """

    candidates: Tensor
    users: Tensor
    positives: tuple[Tensor, Tensor]
    excluded: tuple[Tensor, Tensor]

    def batches(self, size: int) -> Iterator[UserBatch]:
        """Yield the users in batches of ``size``."""
        for start in range(0, len(self.users), size):
            users = self.users[start : start + size]
            rows, columns = _between(self.positives, start, start + size)
            excluded_rows, excluded_columns = _between(self.excluded, start, start + size)
            yield UserBatch(users, rows, columns, excluded_rows, excluded_columns)


def ranking_task(prepared: Prepared, part: str, warm: bool | None = None) -> RankingTask:
    """The ranking problem of a part.

    Items a user has in an earlier part are excluded: ``train`` for valid, ``train+valid`` for test.

    Args:
        prepared: data and split.
        part: ``valid`` or ``test``.
        warm: only positives whose item occurs in training (True), or does not (False); None: all.
    """
    split = prepared.split
    users, items = split.users[part], split.items[part]
    if warm is not None:
        chosen = prepared.in_train["item"][items] == warm
        users, items = users[chosen], items[chosen]
    candidates, people = split.candidates[part], np.unique(users)
    earlier = PARTS[: PARTS.index(part)]
    seen_users = np.concatenate([split.users[name] for name in earlier])
    seen_items = np.concatenate([split.items[name] for name in earlier])
    relevant = np.isin(seen_users, people) & np.isin(seen_items, candidates)
    return RankingTask(
        torch.from_numpy(candidates),
        torch.from_numpy(people),
        _positions(people, candidates, users, items),
        _positions(people, candidates, seen_users[relevant], seen_items[relevant]),
    )


def _positions(
    people: npt.NDArray[np.int64],
    candidates: npt.NDArray[np.int64],
    users: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
) -> tuple[Tensor, Tensor]:
    rows, columns = np.searchsorted(people, users), np.searchsorted(candidates, items)
    order = np.lexsort((columns, rows))
    return torch.from_numpy(rows[order]), torch.from_numpy(columns[order])


def _between(pairs: tuple[Tensor, Tensor], start: int, end: int) -> tuple[Tensor, Tensor]:
    first, last = torch.searchsorted(pairs[0], torch.tensor([start, end])).tolist()
    return pairs[0][first:last] - start, pairs[1][first:last]


def batch_scores(catalogue: Catalogue, batch: UserBatch) -> Tensor:
    """Scores [U, N] of a batch, -inf where excluded."""
    scores = catalogue(batch.users).float()
    scores[batch.excluded_rows, batch.excluded_columns] = -torch.inf
    return scores


@torch.no_grad()
def evaluate_ranking(
    scorer: Scorer, prepared: Prepared, part: str, metrics: RankingMetrics, batch_size: int, top: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Evaluate a scorer on a part.

    Args:
        scorer: a trained model or baseline.
        prepared: data and split.
        part: ``valid`` or ``test``.
        metrics: which metrics; its state is left alone.
        batch_size: users scored at once.
        top: recommendations kept for each user.

    Returns:
        Per-user values (``user_id`` and one column for each metric, where positives are both warm and cold also for
        each slice, as in ``ndcg@10/cold``) and recommendations (``user_id, rank, item_id, score``).
    """
    task = ranking_task(prepared, part)
    catalogue = scorer.catalogue(task.candidates)
    user_ids = prepared.frames["user"]["user_id"]
    item_ids = prepared.frames["item"]["item_id"].gather(pl.Series(task.candidates.numpy()))
    recommended = []
    collected = _fresh(metrics)
    for batch in task.batches(batch_size):
        scores = batch_scores(catalogue, batch)
        collected.update(batch.users, scores, batch.rows, batch.columns)
        best, columns = scores.topk(min(top, scores.shape[1]), 1)
        ranks = torch.arange(1, best.shape[1] + 1).repeat(len(best))
        recommended.append(
            pl.DataFrame(
                {
                    "user_id": user_ids.gather(pl.Series(batch.users.repeat_interleave(best.shape[1]).numpy())),
                    "rank": ranks.numpy(),
                    "item_id": item_ids.gather(pl.Series(columns.flatten().numpy())),
                    "score": best.flatten().numpy(),
                }
            ).filter(pl.col("score").is_finite())
        )
    per_user = _table(collected, user_ids, "")
    for name, warm in (("warm", True), ("cold", False)):
        sliced = ranking_task(prepared, part, warm)
        if 0 < len(sliced.positives[0]) < len(task.positives[0]):
            collected = _fresh(metrics)
            for batch in sliced.batches(batch_size):
                collected.update(batch.users, batch_scores(catalogue, batch), batch.rows, batch.columns)
            per_user = per_user.join(_table(collected, user_ids, f"/{name}"), on="user_id", how="left")
    return per_user, pl.concat(recommended)


def _fresh(metrics: RankingMetrics) -> RankingMetrics:
    return RankingMetrics(metrics.ks)


def _table(metrics: RankingMetrics, user_ids: pl.Series, suffix: str) -> pl.DataFrame:
    users, values = metrics.per_user()
    columns: dict[str, Sequence[float] | pl.Series] = {"user_id": user_ids.gather(pl.Series(users.numpy()))}
    columns |= {f"{name}{suffix}": pl.Series(values[:, i].numpy()) for i, name in enumerate(metrics.names)}
    return pl.DataFrame(columns)


def means(per_user: pl.DataFrame, part: str) -> dict[str, float]:
    """Mean of each metric over users, as ``{"test/ndcg@10": ...}``."""
    row = per_user.drop("user_id").mean().row(0, named=True)
    return {f"{part}/{name}": value for name, value in row.items()}
