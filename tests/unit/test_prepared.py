"""The prepared folder: what is in it, and when it is another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from factorlm.commands.prepare import split_lines
from factorlm.data.prepared import load_prepared, prepare, prepared_key
from factorlm.data.rules import PARTS, Fixed, UserTime
from factorlm.data.sources.synthetic import Synthetic
from factorlm.data.tables import Negatives, frame

WHOLE = {"cold_items": "drop", "cold_users": "drop", "min_user": 0, "min_item": 0}


def source(negatives: Negatives = "drop") -> Synthetic:
    return Synthetic(30, 40, 10, 0, negatives, None)


def rule(**changes: object) -> UserTime:
    return UserTime(**{"valid": 0.1, "test": 0.2, "target": "last", **WHOLE, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("negatives", ["drop", "keep"])
def test_the_folder_holds_the_split(tmp_path: Path, negatives: Negatives) -> None:
    folder, meta = prepare(source(negatives), rule(), tmp_path)
    assert prepare(source(negatives), rule(), tmp_path) == (folder, meta)
    prepared = load_prepared(folder)
    split, interactions = prepared.split, frame(prepared.tables.interactions)
    user_ids, item_ids = prepared.frames["user"]["user_id"], prepared.frames["item"]["item_id"]
    for part in PARTS:
        written = pl.read_parquet(folder / f"{part}.parquet")
        assert written.equals(interactions[split.rows[part]])
        assert written.columns == ["user_id", "item_id", "timestamp", "value", "label"]
        assert written["user_id"].to_list() == user_ids.gather(split.users[part]).to_list()
        assert written["item_id"].to_list() == item_ids.gather(split.items[part]).to_list()
        assert written["value"].to_list() == split.values[part].tolist()
        assert written["label"].to_list() == split.labels[part].tolist()
        assert split.labels[part].all() == (negatives == "drop")
    assert split.report["questions"] == {part: len(split.query_users[part]) for part in PARTS[1:]}
    assert np.array_equal(np.flatnonzero(prepared.in_train["user"]), np.unique(split.users["train"]))


def test_the_report_for_a_person_leaves_out_what_is_zero(tmp_path: Path) -> None:
    lines = split_lines(prepare(source(), rule(), tmp_path)[1]["split"])
    assert lines[0].split() == ["train", "210", "rows", "30", "users", "40", "items"]
    assert lines[3] == "dropped, test: 30 not_asked"
    assert lines[-1] == "test rows whose user trains on a later row: 0.0%"
    lines = split_lines(prepare(source("keep"), rule(target="successive"), tmp_path)[1]["split"])
    assert lines[0].endswith(" positives")
    assert lines[1].endswith(" questions")


def test_each_argument_is_another_protocol(tmp_path: Path) -> None:
    _, first = prepare(source(), rule(), tmp_path)
    for change in ({"target": "successive"}, {"min_user": 1}, {"valid": 0.11}):
        _, other = prepare(source(), rule(**change), tmp_path)
        assert first["data_fingerprint"] == other["data_fingerprint"]
        assert first["split_fingerprint"] != other["split_fingerprint"], change


def test_the_content_of_the_files_of_a_fixed_split_names_the_folder(tmp_path: Path) -> None:
    folder, _ = prepare(source(), rule(), tmp_path)
    columns = {"user": "user_id", "item": "item_id", "timestamp": None}
    paths = {part: str(folder / f"{part}.parquet") for part in PARTS}
    fixed = Fixed(**paths, columns=columns, **WHOLE)  # type: ignore[arg-type]
    found = load_prepared(prepare(source(), fixed, tmp_path)[0]).split
    assert all(np.array_equal(found.rows[part], load_prepared(folder).split.rows[part]) for part in PARTS)
    before = prepared_key(source(), fixed)
    pl.read_parquet(paths["test"])[1:].write_parquet(paths["test"])
    assert prepared_key(source(), fixed) != before


def test_synthetic_negatives_leave_the_positives_alone() -> None:
    some, more = source().load(Path()).interactions, source("keep").load(Path()).interactions
    assert more.filter("label").equals(some)
    assert more["label"].mean() == 0.5
    assert not more.select("user_id", "item_id").is_duplicated().any()
    assert more.filter(~pl.col("label"))["value"].unique().to_list() == [0.0]
