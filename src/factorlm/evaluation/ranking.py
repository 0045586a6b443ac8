"""Rank candidates for every question of a part. Shapes: Q questions, V users, N candidates, P positives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from factorlm.data.prepared import Prepared
from factorlm.data.rules import PARTS
from factorlm.data.tables import fingerprint, frame
from factorlm.errors import UserError
from factorlm.evaluation.base import Evaluation, gathered, share, user_table, with_values
from factorlm.evaluation.candidates import Candidates, Pairs, Questions
from factorlm.evaluation.histories import History, contexts_of, parts_before
from factorlm.metrics import beyond
from factorlm.metrics.ranking import BeyondMetrics, RankingMetrics
from factorlm.metrics.ranks import Top, top_scores
from factorlm.scoring import Catalogue, Contexts, Scorer

HEAD = 0.2  # share of training items, the most popular, that are the head
MAX_SLICES = 30
TRAIN_INTERACTIONS = "train_interactions"  # slices by how many an item has
COUNTS, COUNT_BINS = (1, 5, 20), ("0", "1-4", "5-19", "20+")  # where bins begin, and what they are called


class QueryBatch(NamedTuple):
    """U questions and where in their score matrix [U, N] the positives [P], exclusions and listed candidates are.

    Attributes:
        queries, places: [U] number of each question, and place of its context among the task's.
        users: [U] user index.
        rows, columns, items, grades: [P] row, column (-1: no candidate), item index and value of each positive.
        excluded, listed: (rows, columns); ``listed`` empty: all that are not excluded.
    """

    queries: Tensor
    places: Tensor
    users: Tensor
    rows: Tensor
    columns: Tensor
    items: Tensor
    grades: Tensor
    excluded: tuple[Tensor, Tensor]
    listed: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RankingTask:
    """One part of a split as a ranking problem; pairs are sorted by question.

    Attributes:
        candidates: [N] item indices.
        contexts: [V] who is asked, and what each had before; ascending by user.
        places: [Q] place of each question's context.
        positives: [P] question, column, item, value.
        excluded, listed: (question, column); one of them is empty.
        suffix: of metric names.
    """

    candidates: Tensor
    contexts: Contexts
    places: Tensor
    positives: tuple[Tensor, Tensor, Tensor, Tensor]
    excluded: tuple[Tensor, Tensor]
    listed: tuple[Tensor, Tensor]
    suffix: str

    def __len__(self) -> int:
        return len(self.places)

    def batches(self, size: int) -> Iterator[QueryBatch]:
        """Yield the questions in batches of ``size``; in a process group, each process yields its share."""
        for start in share(len(self.places), size):
            queries = torch.arange(start, min(start + size, len(self.places)))
            places = self.places[queries]
            rows, columns, items, grades = _between(self.positives, start, start + size)
            excluded, listed = (_between(pairs, start, start + size) for pairs in (self.excluded, self.listed))
            yield QueryBatch(
                queries, places, self.contexts.users[places], rows, columns, items, grades,
                (excluded[0], excluded[1]), (listed[0], listed[1]),
            )  # fmt: skip


def ranking_task(prepared: Prepared, part: str, rule: Candidates, history: History = "train") -> RankingTask:
    """The ranking problem of a part, ``valid`` or ``test``.

    Items a user has in an earlier part, or had in the same part before what is asked, are excluded. A model reads as
    the history of a context the training rows (``history="train"``) or all that is excluded (``"earlier"``).

    Raises:
        UserError: the data hold rows that are no positives, or the candidates cannot be read.
    """
    split = prepared.split
    if not all(split.labels[name].all() for name in PARTS):
        raise UserError("dataset.negatives=keep is for task=pointwise: rank with dataset.negatives=drop")
    asked = split.query_users[part]
    earlier = PARTS[: PARTS.index(part)]
    candidates = split.candidates[part]
    positives = split.queries[part], split.items[part]
    before = _joined(_of_users(prepared, earlier, asked), split.passed[part])
    ids = prepared.frames["user"]["user_id"], prepared.frames["item"]["item_id"]

    def known() -> Pairs:
        had = frame(prepared.tables.interactions).select("user_id", "item_id").unique()
        queries = pl.DataFrame({"user_id": ids[0].gather(pl.Series(asked)), "query": np.arange(len(asked))})
        items = pl.DataFrame({"item_id": ids[1], "item": np.arange(len(ids[1]))})
        pairs = queries.join(had, on="user_id").join(items, on="item_id").sort("query", "item")
        return pairs["query"].to_numpy(), pairs["item"].to_numpy()

    chosen = rule.choose(Questions(asked, known, positives, candidates, *ids))
    if chosen is not None:
        candidates, before = np.unique(chosen[1]), (before[0][:0], before[1][:0])
    users, places = np.unique(asked, return_inverse=True)
    passed = split.passed[part]
    if history == "earlier" and len(passed[0]):  # each question has its own moment
        users, places = asked, np.arange(len(asked))
    also = passed if history == "earlier" else None
    columns = _columns(candidates, positives[1])
    if chosen is not None:
        size = len(candidates)
        listed = np.isin(positives[0] * size + columns, chosen[0] * size + _columns(candidates, chosen[1]))
        columns = np.where(listed, columns, -1)
    order = np.lexsort((positives[1], positives[0]))
    values = split.values[part]
    return RankingTask(
        candidates=torch.from_numpy(candidates),
        contexts=contexts_of(prepared, users, parts_before(part, history), also),
        places=torch.from_numpy(places),
        positives=(
            torch.from_numpy(positives[0][order]),
            torch.from_numpy(columns[order]),
            torch.from_numpy(positives[1][order]),
            torch.from_numpy(values[order]),
        ),
        excluded=_pairs(candidates, before),
        listed=_pairs(candidates, chosen if chosen is not None else (before[0][:0], before[1][:0])),
        suffix=rule.suffix,
    )


def _of_users(prepared: Prepared, parts: tuple[str, ...], asked: npt.NDArray[np.int64]) -> Pairs:
    """Pairs of question and item: what the user of each question has in some parts."""
    split = prepared.split
    had = pl.DataFrame({
        "user": np.concatenate([split.users[part] for part in parts]),
        "item": np.concatenate([split.items[part] for part in parts]),
    })  # fmt: skip
    pairs = pl.DataFrame({"user": asked, "query": np.arange(len(asked))}).join(had.unique(), on="user")
    return pairs["query"].to_numpy(), pairs["item"].to_numpy()


def _joined(*pairs: Pairs) -> Pairs:
    return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def _columns(candidates: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Column of each item, -1 where it is no candidate."""
    place = np.searchsorted(candidates, items).clip(max=len(candidates) - 1)
    return np.where(candidates[place] == items, place, -1)


def _pairs(candidates: npt.NDArray[np.int64], pairs: Pairs) -> tuple[Tensor, Tensor]:
    columns = _columns(candidates, pairs[1])
    queries, columns = pairs[0][columns >= 0], columns[columns >= 0]
    order = np.lexsort((columns, queries))
    return torch.from_numpy(queries[order]), torch.from_numpy(columns[order])


def _between(pairs: tuple[Tensor, ...], start: int, end: int) -> tuple[Tensor, ...]:
    first, last = torch.searchsorted(pairs[0], torch.tensor([start, end])).tolist()
    return pairs[0][first:last] - start, *(values[first:last] for values in pairs[1:])


def batch_scores(catalogue: Catalogue, batch: QueryBatch) -> Tensor:
    """Scores [U, N] of a batch, -inf where a candidate is excluded or not listed.

    Raises:
        ValueError: the model gives NaN or minus infinity itself.
    """
    scores = catalogue.cross(batch.places).float()
    if not scores.amin().isfinite():
        raise ValueError("scores contain NaN or infinity: the model has diverged")
    if len(batch.listed[0]):
        listed = torch.full_like(scores, -torch.inf)
        listed[batch.listed] = scores[batch.listed]
        return listed
    scores[batch.excluded] = -torch.inf
    return scores


@torch.no_grad()
def rank(scorer: Scorer, contexts: Contexts, items: Tensor, k: int, *, batch_size: int = 128) -> tuple[Tensor, Tensor]:
    """The best items for each context, those of its history left out.

    Args:
        scorer: a recommender or a baseline.
        contexts: [C] who is asked.
        items: [N] candidates, item indices.
        k: how many are wanted.
        batch_size: contexts ranked at once.

    Returns:
        Item indices [C, k] and scores [C, k], best first; where fewer than k are left the score is -inf.
    """
    catalogue, known = scorer.catalogue(contexts, items), _among(contexts, items)
    found = []
    for places in torch.arange(len(contexts), device=contexts.users.device).split(batch_size):
        scores = catalogue.cross(places).float().contiguous()
        rows, columns = known[places].pairs()
        scores.view(-1).index_fill_(0, rows * len(items) + columns, -torch.inf)
        found.append(top_scores(scores, min(k, len(items))))
    return items[torch.cat([top.columns for top in found])], torch.cat([top.values for top in found])


def _among(contexts: Contexts, items: Tensor) -> Contexts:
    """The contexts with the columns of candidates in place of history items; what is no candidate is left out."""
    log = contexts.log
    column = torch.full((int(torch.cat([items, log]).amax()) + 1,), -1, device=log.device)
    column[items] = torch.arange(len(items), device=log.device)
    columns = column.index_select(0, log)
    inside = columns >= 0
    if inside.all():
        return replace(contexts, log=columns)
    before = torch.cat([inside.new_zeros(1, dtype=torch.int64), inside.cumsum(0)])
    return Contexts(contexts.users, before[contexts.starts], before[contexts.ends], columns[inside])


@dataclass(frozen=True)
class RankingEvaluator:
    """Evaluate scorers on full or sampled rankings.

    Args:
        prepared: data and split.
        metrics: which metrics, and cut-offs.
        candidates: who is ranked.
        batch_size: questions scored at once; it bounds memory and changes no value.
        top: recommendations kept for each question.
        history: which rows of a user a model may read.
    """

    prepared: Prepared
    metrics: RankingMetrics
    candidates: Candidates
    batch_size: int
    top: int
    history: History = "train"

    @property
    def names(self) -> list[str]:
        """Metrics by which weights can be selected."""
        return self.metrics.names

    @property
    def suffix(self) -> str:
        """What follows the names of metrics: ``/uni100`` for sampled candidates."""
        return self.candidates.suffix

    def protocol(self) -> dict[str, str]:
        """What this evaluation adds to the protocol."""
        return {
            "candidates": self.candidates.identity(),
            "exclusion": "valid: train; test: train+valid; and what was passed before the target",
        }

    @property
    def definitions(self) -> list[str]:
        """Every metric with its version, and the item columns that diversity and slices read, with their content."""
        kinds = [name for name in beyond.VERSIONS if name != "diversity" or self.metrics.diversity is not None]
        named = [f"{name}@{k} v{beyond.VERSIONS[name]}" for k in self.metrics.ks for name in kinds]
        columns = {"diversity by": self.metrics.diversity} | {
            f"sliced by {c}": c for c in self.metrics.slices if c != TRAIN_INTERACTIONS
        }
        items = self.prepared.frames["item"]
        read = [
            f"{use} {fingerprint(items.select('item_id', column))[:8]}"
            for use, column in columns.items()
            if column in items.columns
        ]
        if TRAIN_INTERACTIONS in self.metrics.slices:
            read.append(f"sliced by {TRAIN_INTERACTIONS} {' '.join(COUNT_BINS)}")
        return [*self.metrics.definitions, *named, *read]

    def task(self, part: str) -> RankingTask:
        """The ranking problem of a part."""
        return ranking_task(self.prepared, part, self.candidates, self.history)

    def check(self) -> None:
        """Refuse before training what could not be evaluated after it.

        Raises:
            UserError: as in `ranking_task`, ``metrics.diversity`` or ``metrics.slices`` is no column that fits, or a
                rating is above ``metrics.max_grade``.
        """
        for part in PARTS[1:]:
            task = self.task(part)
            self.metrics.check_grades(task.positives[3])
            self._item_statistics(task.candidates)
            self._slices(task.positives[2])

    @torch.no_grad()
    def evaluate(self, scorer: Scorer, part: str) -> Evaluation:
        """Accuracy, beyond-accuracy and sliced metrics of a scorer on a part.

        Slices count the positives of some items only: ``/warm`` and ``/cold`` (with or without training interactions),
        ``/head`` and ``/tail`` (the most popular fifth of training items, and the others), and each value of the item
        columns in ``metrics.slices``, of which an item may have several. All candidates stay, but for
        ``train_interactions`` in ``metrics.slices``: items with 0, 1-4, 5-19 and 20 or more training interactions are
        ranked among their like.
        """
        task = self.task(part)
        catalogue = scorer.catalogue(task.contexts, task.candidates)
        popularity, features = self._item_statistics(task.candidates)
        whole = self.fresh()
        made = BeyondMetrics(self.metrics.ks, task.candidates, popularity, features)
        slices = self._slices(task.positives[2])
        sliced = {name: self.fresh() for name in slices}
        recommended = []
        for batch in task.batches(self.batch_size):
            scores = batch_scores(catalogue, batch)
            top = top_scores(scores, max(self.top, *self.metrics.ks) + 1)  # one more shows where a tie goes on
            whole.update(batch.queries, batch.users, scores, batch.rows, batch.columns, batch.grades, top)
            made.update(batch.queries, batch.users, scores, top)
            for name, chosen in slices.items():
                inside = chosen[batch.items]
                positives = batch.rows[inside], batch.columns[inside], batch.grades[inside]
                if name.startswith(f"{TRAIN_INTERACTIONS}="):
                    alike = scores.masked_fill(~chosen[task.candidates], -torch.inf)
                    sliced[name].update(batch.queries, batch.users, alike, *positives)
                else:
                    sliced[name].update(batch.queries, batch.users, scores, *positives, top)
            recommended.append(self._recommended(task, batch, Top(*(part[:, : self.top] for part in top))))
        values: dict[str, float] = {}
        per_user = user_table(self.prepared, task.contexts.users.unique())
        for metric, suffix in ((whole, ""), (made, ""), *((sliced[name], f"/{name}") for name in slices)):
            values |= {f"{name}{task.suffix}{suffix}": value for name, value in metric.compute().items()}
            users, table = metric.per_user()
            columns = {f"{name}{task.suffix}{suffix}": table[:, i] for i, name in enumerate(metric.names)}
            per_user = with_values(per_user, users, columns)
        top_lists = gathered(recommended).sort("query", "rank")
        if len(task.places) == len(per_user):  # a user is one question
            top_lists = top_lists.drop("query")
        return Evaluation(values, per_user.drop("user"), top_lists, "topk")

    def _recommended(self, task: RankingTask, batch: QueryBatch, top: Top) -> pl.DataFrame:
        """The lists of a batch, row by row."""
        frames, length = self.prepared.frames, top.values.shape[1]
        items = task.candidates[top.columns.flatten()]
        return pl.DataFrame({
            "query": batch.queries.repeat_interleave(length).numpy(),
            "user_id": frames["user"]["user_id"].gather(pl.Series(batch.users.repeat_interleave(length).numpy())),
            "rank": torch.arange(1, length + 1).repeat(len(batch.queries)).numpy(),
            "item_id": frames["item"]["item_id"].gather(pl.Series(items.numpy())),
            "score": top.values.flatten().numpy(),
        }).filter(pl.col("score").is_finite())  # fmt: skip

    def fresh(self) -> RankingMetrics:
        """The accuracy metrics, empty."""
        return RankingMetrics(self.metrics.ks, self.metrics.max_grade)

    def _item_counts(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.prepared.split.items["train"], minlength=len(self.prepared.frames["item"]))

    def _item_statistics(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """Share of training users who have each candidate (one user added to both counts), and its features."""
        num_users = len(np.unique(self.prepared.split.users["train"]))
        popularity = torch.from_numpy((self._item_counts()[candidates.numpy()] + 1) / (num_users + 1))
        name = self.metrics.diversity
        if name is None:
            return popularity, None
        item, value = self._item_values(name, "metrics.diversity")
        codes = value.rank("dense").to_numpy().astype(np.int64) - 1
        features = np.zeros((len(self.prepared.frames["item"]), int(codes.max(initial=0)) + 1), np.float32)
        features[item.to_numpy(), codes] = 1.0
        return popularity, torch.nn.functional.normalize(torch.from_numpy(features)[candidates])

    def _item_values(self, name: str, key: str) -> tuple[pl.Series, pl.Series]:
        """Items and their values in a column, of which an item may have none or several."""
        items = self.prepared.frames["item"]
        if name not in items.columns:
            raise UserError(f"{key}={name} is not in the items table, which has {', '.join(items.columns)}")
        pairs = items.select(pl.int_range(pl.len()).alias("item"), pl.col(name).alias("value"))
        pairs = (pairs.explode("value") if pairs["value"].dtype == pl.List else pairs).drop_nulls()
        return pairs["item"], pairs["value"]

    def _slices(self, positives: Tensor) -> Mapping[str, Tensor]:
        """Items [I] of each slice that holds some positives; a pair of slices is left out if one of it holds all."""
        counts = self._item_counts()
        warm = torch.from_numpy(counts > 0)
        popular = np.argsort(-counts, kind="stable")[: int(np.ceil(HEAD * (counts > 0).sum()))]
        head = torch.zeros(len(counts), dtype=torch.bool)
        head[popular] = True
        halves: dict[str, Tensor] = {"warm": warm, "cold": ~warm, "head": head, "tail": warm & ~head}
        slices = {name: items for name, items in halves.items() if 0 < items[positives].sum() < len(positives)}
        for column in self.metrics.slices:
            if column == TRAIN_INTERACTIONS:
                item, value = _count_bins(counts)
            else:
                item, value = self._item_values(column, "metrics.slices")
            found = value.unique().sort()
            if len(found) > MAX_SLICES:
                raise UserError(
                    f"metrics.slices: {column} has {len(found)} values, and {MAX_SLICES} are the most: take another"
                )
            for one in found:
                inside = torch.from_numpy(np.isin(np.arange(len(counts)), item.filter(value == one).to_numpy()))
                if inside[positives].any():
                    slices[f"{column}={one}"] = inside
        return slices


def _count_bins(counts: npt.NDArray[np.int64]) -> tuple[pl.Series, pl.Series]:
    """Items, and the bin of their training interactions [I], which sort by number."""
    bins = pl.Series(np.array(COUNT_BINS)[np.searchsorted(COUNTS, counts, side="right")], dtype=pl.Enum(COUNT_BINS))
    return pl.Series(np.arange(len(counts))), bins
