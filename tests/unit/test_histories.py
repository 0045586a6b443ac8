"""Histories are what a user had before, in the order of time, and never the target or anything later."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
import torch
from omegaconf import DictConfig

from factorlm.config.build import cache_dir, make_data
from factorlm.data.prepared import Prepared, load_prepared, prepare
from factorlm.data.tables import frame
from factorlm.evaluation.candidates import Full
from factorlm.evaluation.histories import train_contexts
from factorlm.evaluation.pointwise import row_task
from factorlm.evaluation.ranking import ranking_task
from factorlm.scoring import Contexts

Compose = Callable[..., DictConfig]


def opened(config: DictConfig) -> Prepared:
    return load_prepared(prepare(*make_data(config), cache_dir(config))[0])


def log(prepared: Prepared) -> pl.DataFrame:
    """Users, items and times of all positives, in the order of time."""
    frames = prepared.frames
    ids = {key: frames[side][key].to_list() for side, key in (("user", "user_id"), ("item", "item_id"))}
    rows = frame(prepared.tables.interactions).with_row_index("row").filter("label")
    return rows.with_columns(
        user=pl.col("user_id").map_elements(ids["user_id"].index, pl.Int64),
        item=pl.col("item_id").map_elements(ids["item_id"].index, pl.Int64),
    ).sort("timestamp", "row")


def history(contexts: Contexts, place: int) -> list[int]:
    return contexts.log[contexts.starts[place] : contexts.ends[place]].tolist()


@pytest.mark.parametrize("overrides", [[], ["dataset.negatives=keep"]])
def test_training_rows_see_what_came_before(small: Compose, overrides: list[str]) -> None:
    prepared = opened(small(*overrides))
    rows, split = log(prepared), prepared.split
    contexts = train_contexts(prepared)
    train = rows.filter(pl.col("row").is_in(split.rows["train"].tolist()))
    times = frame(prepared.tables.interactions)["timestamp"].to_list()
    assert contexts.users.tolist() == split.users["train"].tolist()
    for place in range(0, len(contexts), 7):
        row = int(split.rows["train"][place])
        mine = train.filter(pl.col("user") == int(contexts.users[place]))
        before = mine.filter(pl.struct("timestamp", "row").map_elements(
            lambda at: (at["timestamp"], at["row"]) < (times[row], row), pl.Boolean))  # noqa: B023  # fmt: skip
        assert history(contexts, place) == before["item"].to_list()


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("kept", ["train", "earlier"])
@pytest.mark.parametrize("target", ["all", "last", "successive"])
def test_what_is_asked_sees_only_earlier_rows(small: Compose, part: str, kept: str, target: str) -> None:
    prepared = opened(small(f"split.target={target}"))
    task = ranking_task(prepared, part, Full(), kept)  # type: ignore[arg-type]
    rows, split = log(prepared), prepared.split
    parts = ["train"] if kept == "train" or part == "valid" else ["train", "valid"]
    known = [row for name in parts for row in split.rows[name].tolist()]
    at = {(user, item): place for place, (user, item) in enumerate(rows.select("user", "item").iter_rows())}
    for query in range(0, len(task), 5):
        place = int(task.places[query])
        user, had = int(task.contexts.users[place]), history(task.contexts, place)
        targets = task.positives[2][task.positives[0] == query].tolist()
        assert not set(had) & set(targets)
        expected = rows.filter(pl.col("user") == user, pl.col("row").is_in(known))["item"].to_list()
        if kept == "earlier" and target != "all":
            moment = at[user, targets[0]]
            expected = [item for item in rows.filter(pl.col("user") == user)["item"] if at[user, item] < moment]
        assert had == expected


def test_rows_see_earlier_positives(small: Compose) -> None:
    prepared = opened(small("dataset.negatives=keep"))
    for kept, parts in (("train", ["train"]), ("earlier", ["train", "valid"])):
        task = row_task(prepared, "test", kept)  # type: ignore[arg-type]
        known = [row for name in parts for row in prepared.split.rows[name].tolist()]
        rows = log(prepared).filter(pl.col("row").is_in(known))
        for place, user in enumerate(task.contexts.users.tolist()):
            assert history(task.contexts, place) == rows.filter(pl.col("user") == user)["item"].to_list()


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_rated_rows_are_all_a_user_had_before(small: Compose, part: str) -> None:
    prepared = opened(small("dataset.negatives=keep", "split.target=successive"))
    split, rows = prepared.split, frame(prepared.tables.interactions)
    ids = prepared.frames["item"]["item_id"].to_list()
    if part == "train":
        contexts, places = train_contexts(prepared), range(len(split.rows["train"]))
    else:
        task = row_task(prepared, part, "earlier")
        contexts, places = task.contexts, task.places.tolist()  # type: ignore[assignment]
    assert contexts.rated is not None
    shuffled = torch.randperm(len(contexts))
    contexts, order = contexts[shuffled], shuffled.argsort().tolist()
    for number in range(0, len(places), 5):
        row, place = int(split.rows[part][number]), order[places[number]]
        user, time, rated = rows["user_id"][row], rows["timestamp"][row], contexts.rated
        assert rated is not None
        mine = slice(int(rated.starts[place]), int(rated.ends[place]))
        before = rows.with_row_index("row").filter(
            pl.col("user_id") == user,
            (pl.col("timestamp") < time) | ((pl.col("timestamp") == time) & (pl.col("row") < row)),
        ).sort("timestamp", "row")  # fmt: skip
        assert [ids[item] for item in rated.log[mine].tolist()] == before["item_id"].to_list()
        assert rated.labels[mine].tolist() == before["label"].to_list()
        assert history(contexts, place) == rated.log[mine][rated.labels[mine]].tolist()


def test_data_without_negatives_have_no_rated_rows(small: Compose) -> None:
    assert train_contexts(opened(small())).rated is None


def test_contexts_by_hand() -> None:
    contexts = Contexts(*(torch.tensor(part) for part in ([7, 8, 9], [0, 0, 3], [3, 1, 3], [4, 2, 4, 1])))
    items, lengths = contexts.last(2)
    assert items.tolist() == [[2, 4], [4, 0], [0, 0]]
    assert lengths.tolist() == [2, 1, 0]
    assert [part.tolist() for part in contexts.pairs()] == [[0, 0, 0, 1], [4, 2, 4, 4]]
    assert contexts[torch.tensor([2, 0])].users.tolist() == [9, 7]
