from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.data.splits import (
    TEST,
    TRAIN,
    VALID,
    ColdItem,
    GlobalTime,
    LeaveOneOut,
    Random,
    SplitRule,
    UserTime,
    make_split,
)
from factorlm.errors import UserError

RULES: list[SplitRule] = [
    UserTime("drop", 0.1, 0.2), UserTime("keep", 0.1, 0.2), GlobalTime("drop", 0.2, 0.2), LeaveOneOut("drop"),
    Random("drop", 0.2, 0.2, 0), ColdItem(0.2, 0.3, 0),
]  # fmt: skip


def log(seed: int, size: int = 300) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    pairs = generator.permutation(20 * 30)[:size]
    return pl.DataFrame(
        {"user_id": pairs // 30, "item_id": pairs % 30, "timestamp": generator.integers(0, 50, size), "value": 1.0}
    )


def split(rule: SplitRule, frame: pl.DataFrame):
    return make_split(rule, frame, frame["user_id"].to_numpy(), frame["item_id"].to_numpy(), 30)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}-{rule.candidates}")
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_every_split(rule: SplitRule, seed: int) -> None:
    frame = log(seed)
    first, second = split(rule, frame), split(rule, frame)
    pairs = {
        part: set(zip(first.users[part].tolist(), first.items[part].tolist(), strict=True)) for part in first.users
    }
    assert not pairs["train"] & pairs["valid"]
    assert not pairs["train"] & pairs["test"]
    assert not pairs["valid"] & pairs["test"]
    train_users, train_items = set(first.users["train"]), set(first.items["train"])
    for part in ("valid", "test"):
        assert np.array_equal(first.users[part], second.users[part])
        assert set(first.users[part]) <= train_users
        assert set(first.items[part]) <= set(first.candidates[part])
        if rule.candidates == "train":
            assert set(first.candidates[part]) == train_items
        if rule.candidates == "part":
            assert not set(first.candidates[part]) & train_items
    kept = sum(len(first.users[part]) for part in first.users)
    assert kept + sum(first.report["dropped"].values()) == len(frame)  # type: ignore[attr-defined]


def test_user_time_is_chronological_and_stable() -> None:
    frame = pl.DataFrame(
        {"user_id": [0] * 10, "item_id": range(10), "timestamp": [5, 5, 5, 1, 1, 9, 9, 9, 9, 0], "value": 1.0}
    )
    labels = UserTime("drop", 0.1, 0.1)(frame)
    assert np.flatnonzero(labels == VALID).tolist() == [7]  # ties keep the order of the source
    assert np.flatnonzero(labels == TEST).tolist() == [8]


def test_leave_one_out_trains_on_short_histories() -> None:
    frame = pl.DataFrame(
        {"user_id": [0, 0, 1, 1, 1], "item_id": [0, 1, 0, 1, 2], "timestamp": [2, 1, 1, 3, 2], "value": 1.0}
    )
    assert LeaveOneOut("drop")(frame).tolist() == [TRAIN, TRAIN, TRAIN, TEST, VALID]


def test_global_time_does_not_leak() -> None:
    assert split(GlobalTime("drop", 0.2, 0.2), log(0)).report["leakage"] == 0.0
    assert split(UserTime("drop", 0.2, 0.2), log(0)).report["leakage"] > 0.0  # type: ignore[operator]


def test_an_empty_part_is_an_error() -> None:
    frame = pl.DataFrame({"user_id": [0, 1], "item_id": [0, 1], "timestamp": [0, 1], "value": 1.0})
    with pytest.raises(UserError, match="leaves no valid interaction"):
        split(LeaveOneOut("drop"), frame)


@pytest.mark.parametrize("make", [lambda: UserTime("some", 0.1, 0.1), lambda: UserTime("drop", 0.0, 0.1)])
def test_bad_rules_are_refused(make) -> None:
    with pytest.raises(UserError, match=r"split\."):
        make()
