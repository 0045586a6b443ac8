"""What each user had before: of training rows, and of what is asked."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
import torch

from factorlm.data.prepared import Prepared
from factorlm.data.rules import PARTS, Indices, Mask
from factorlm.data.tables import frame
from factorlm.evaluation.candidates import Pairs
from factorlm.scoring import Contexts, Rated

History = Literal["train", "earlier"]


def train_contexts(prepared: Prepared) -> Contexts:
    """A context for each training row [n], in their order: what the user had before it."""
    split, times = prepared.split, prepared.positions
    users, labels = split.users["train"], split.labels["train"]
    order = np.lexsort((times[split.rows["train"]], users))
    positive = labels[order].astype(np.int64)
    before = np.cumsum(positive) - positive  # positives of all users up to the row
    first = np.searchsorted(users[order], users[order])
    starts, ends = np.empty_like(users), np.empty_like(users)
    starts[order], ends[order] = before[first], before
    log = split.items["train"][order][positive > 0]
    rated = None
    if not labels.all():
        begins, places = np.empty_like(users), np.empty_like(users)
        begins[order], places[order] = np.searchsorted(users[order], users[order]), np.arange(len(users))
        rated = _rated(begins, places, split.items["train"][order], labels[order])
    return _contexts(users, starts, ends, log, rated)


def contexts_of(prepared: Prepared, users: np.ndarray, parts: tuple[str, ...], also: Pairs | None = None) -> Contexts:
    """A context for each of ``users`` [C].

    Args:
        prepared: data and split.
        users: [C] user indices.
        parts: whose rows are the history.
        also: place among ``users`` and item, [m] each, of further interactions.
    """
    split, columns = prepared.split, ("place", "item", "time", "label")
    had = pl.DataFrame({
        "user": np.concatenate([split.users[part] for part in parts]),
        "item": np.concatenate([split.items[part] for part in parts]),
        "time": prepared.positions[np.concatenate([split.rows[part] for part in parts])],
        "label": np.concatenate([split.labels[part] for part in parts]),
    })  # fmt: skip
    asked = pl.DataFrame({"user": users, "place": np.arange(len(users))})
    rows = asked.join(had, on="user").select(columns)
    if also is not None and len(also[0]):
        further = pl.DataFrame({"place": also[0], "item": also[1], "user": users[also[0]]})
        rows = pl.concat([rows, further.join(first_times(prepared), on=["user", "item"]).select(columns)])
    rows = rows.sort("place", "time")
    liked, rated = rows.filter("label"), None
    if not split.labels["train"].all():
        rated = _rated(*_spans(rows, len(users)), rows["item"].to_numpy(), rows["label"].to_numpy())
    return _contexts(users, *_spans(liked, len(users)), liked["item"].to_numpy(), rated)


def parts_before(part: str, history: History) -> tuple[str, ...]:
    """The parts that a model may read when ``part`` is asked."""
    return PARTS[:1] if history == "train" else PARTS[: PARTS.index(part)]


def _spans(rows: pl.DataFrame, size: int) -> tuple[Indices, Indices]:
    """Where the rows of each place begin and end, [size] each."""
    counts = np.bincount(rows["place"].to_numpy(), minlength=size)
    ends = np.cumsum(counts)
    return ends - counts, ends


def _contexts(users: Indices, starts: Indices, ends: Indices, log: Indices, rated: Rated | None) -> Contexts:
    one, two, three, four = (torch.from_numpy(part.copy()) for part in (users, starts, ends, log))
    return Contexts(one, two, three, four, rated)


def _rated(starts: Indices, ends: Indices, items: Indices, labels: Mask) -> Rated:
    return Rated(*(torch.from_numpy(part.copy()) for part in (starts, ends, items, labels)))


def first_times(prepared: Prepared) -> pl.DataFrame:
    """Users, items and place and label of the first interaction of each pair."""
    had = frame(prepared.tables.interactions).select("user_id", "item_id", "label")
    ids = prepared.frames["user"]["user_id"], prepared.frames["item"]["item_id"]
    users = pl.DataFrame({"user_id": ids[0], "user": np.arange(len(ids[0]))})
    items = pl.DataFrame({"item_id": ids[1], "item": np.arange(len(ids[1]))})
    rows = had.with_columns(time=prepared.positions).join(users, on="user_id").join(items, on="item_id")
    return rows.group_by("user", "item").agg(pl.col("time").min(), pl.col("label").sort_by("time").first())
