"""Every rule against properties that all share, and against brute force."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from factorlm.data.rules import (
    NO_PART,
    PARTS,
    TEST,
    TRAIN,
    VALID,
    ColdItem,
    ColdUser,
    Fixed,
    GlobalTime,
    LeaveOneOut,
    Random,
    SplitRule,
    UserTime,
)
from factorlm.data.splits import Split, make_split
from factorlm.errors import UserError

NUM_USERS, NUM_ITEMS = 12, 20
TARGETS, COLD = ("all", "last", "first", "successive"), ("drop", "keep")
KEEP = {"cold_items": "keep", "cold_users": "keep", "min_user": 0, "min_item": 0}
WHOLE = {"cold_items": "drop", "cold_users": "drop", "min_user": 0, "min_item": 0}


def every_rule() -> list[SplitRule]:
    rules: list[SplitRule] = []
    for core in ({"min_user": 0, "min_item": 0}, {"min_user": 6, "min_item": 3}):
        for items, users in product(COLD, COLD):
            if core["min_user"] and items != users:
                continue  # less is enough together
            cold = {"cold_items": items, "cold_users": users, **core}
            for target in TARGETS:
                rules += [rule(valid=0.2, test=0.3, target=target, **cold) for rule in (UserTime, GlobalTime)]
            rules += [LeaveOneOut(**cold), Random(valid=0.2, test=0.3, seed=0, **cold)]
        rules += [rule(valid=0.2, test=0.3, seed=0, **core) for rule in (ColdItem, ColdUser)]
    return rules


def name(rule: SplitRule) -> str:
    return "-".join(map(str, rule.identity().values()))


def log(seed: int, size: int = 140, span: int = 50) -> pl.DataFrame:
    """Interactions of users and items that come one after the other, a third of them negative."""
    draw = np.random.default_rng(seed)
    pairs = draw.permutation(NUM_USERS * NUM_ITEMS)[:size]
    columns = {"user_id": pairs // NUM_ITEMS, "item_id": pairs % NUM_ITEMS}
    times = (
        draw.integers(0, span, size) + 6 * columns["user_id"] + columns["item_id"]
        if span < size
        else draw.permutation(size)
    )
    return pl.DataFrame(columns | {"timestamp": times, "value": draw.random(size), "label": draw.random(size) < 0.7})


def split(rule: SplitRule, frame: pl.DataFrame) -> Split:
    return make_split(rule, frame, frame["user_id"].to_numpy(), frame["item_id"].to_numpy(), NUM_ITEMS + 1)


def split_or_reject(rule: SplitRule, frame: pl.DataFrame) -> Split:
    try:
        return split(rule, frame)
    except UserError:  # a part is empty
        reject()


def core_by_hand(rule: SplitRule, frame: pl.DataFrame) -> set[int]:
    rows = set(range(len(frame)))
    users, items, labels = (frame[column].to_list() for column in ("user_id", "item_id", "label"))
    while True:
        of_user, of_item = (Counter(ids[row] for row in rows if labels[row]) for ids in (users, items))
        left = {r for r in rows if of_user[users[r]] >= rule.min_user and of_item[items[r]] >= rule.min_item}
        if left == rows:
            return rows
        rows = left


@pytest.mark.parametrize("rule", every_rule(), ids=name)
@settings(max_examples=3, deadline=None)
@given(st.integers(0, 1000))
def test_a_split_is_what_brute_force_says(rule: SplitRule, seed: int) -> None:
    frame = log(seed)
    found = split_or_reject(rule, frame)
    users, items, times = (frame[column].to_list() for column in ("user_id", "item_id", "timestamp"))
    core = core_by_hand(rule, frame)
    inside = np.array([row in core for row in range(len(frame))])
    part = dict(zip(sorted(core), rule(frame, inside).tolist(), strict=True))
    train = {row for row in core if part[row] == TRAIN}
    known = set()
    for row in core:
        new_user = users[row] not in {users[other] for other in train}
        new_item = items[row] not in {items[other] for other in train}
        if not (new_user and rule.cold_users == "drop") and not (new_item and rule.cold_items == "drop"):
            known.add(row)
    assert set(found.rows["train"]) == train
    before = {
        row: sorted(r for r in known if users[r] == users[row] and (times[r], r) < (times[row], row)) for row in known
    }
    for code, held_out in ((VALID, "valid"), (TEST, "test")):
        here = {row for row in known if part[row] == code}
        asked = {row for row in here if rule.target not in ("last", "first")}
        for row in here - asked:
            others = [(times[r], r) for r in here if users[r] == users[row]]
            if (times[row], row) == (max(others) if rule.target == "last" else min(others)):
                asked.add(row)
        assert found.rows[held_out].tolist() == sorted(asked)
        questions = found.queries[held_out].tolist()
        if rule.target == "all":
            assert sorted(set(questions)) == list(range(len(found.query_users[held_out])))
            assert not len(found.passed[held_out][0])
            continue
        order = sorted(asked, key=lambda row: (users[row], times[row], row))
        assert [order[question] for question in questions] == sorted(asked)
        left_out = {row for row in known if part[row] == VALID} - set(found.rows["valid"])
        passed = {
            (question, items[r])
            for question, row in enumerate(order)
            for r in before[row]
            if r in here or (r in left_out and code == TEST)
        }
        assert set(zip(*(pairs.tolist() for pairs in found.passed[held_out]), strict=True)) == passed


@pytest.mark.parametrize("rule", every_rule(), ids=name)
@settings(max_examples=3, deadline=None)
@given(st.integers(0, 1000))
def test_what_all_splits_share(rule: SplitRule, seed: int) -> None:
    frame = log(seed)
    found = split_or_reject(rule, frame)
    again, loaded = split(rule, frame).arrays(), Split.of(found.arrays(), found.report).arrays()
    for key, array in found.arrays().items():
        assert np.array_equal(array, again[key])
        assert np.array_equal(array, loaded[key])
        assert array.dtype == again[key].dtype == loaded[key].dtype
    rows = [row for part in PARTS for row in found.rows[part]]
    assert len(set(rows)) == len(rows)
    dropped = [count for reasons in found.report["dropped"].values() for count in reasons.values()]
    assert len(rows) + sum(dropped) == len(frame)
    train_users, train_items = set(found.users["train"]), set(found.items["train"])
    core_items = {frame["item_id"][row] for row in core_by_hand(rule, frame)}
    for part in PARTS:
        assert found.rows[part].tolist() == sorted(found.rows[part])
        chosen = frame[found.rows[part]]
        for key, column in (("users", "user_id"), ("items", "item_id"), ("labels", "label")):
            assert np.array_equal(getattr(found, key)[part], chosen[column])
        assert np.allclose(found.values[part], chosen["value"])
    for part in PARTS[1:]:
        assert np.array_equal(found.query_users[part][found.queries[part]], found.users[part])
        assert (np.diff(found.query_users[part]) >= 0).all()
        assert set(found.items[part]) <= set(found.candidates[part])
        everything = core_items | ((set(range(NUM_ITEMS + 1)) - set(frame["item_id"])) if rule.min_item == 0 else set())
        expected = {"train": train_items, "all": everything, "part": set(found.items[part])}[rule.candidates]
        assert found.candidates[part].tolist() == sorted(expected)
        cold = found.report["cold"][part]
        assert cold["cold_user"] == sum(user not in train_users for user in found.users[part])
        assert cold["cold_item"] == sum(item not in train_items for item in found.items[part])
        assert not cold["cold_user"] or rule.cold_users == "keep"
        assert not cold["cold_item"] or rule.cold_items == "keep"
        assert not isinstance(rule, ColdItem) or cold["cold_item"] == len(found.items[part])
        assert not isinstance(rule, ColdUser) or cold["cold_user"] == len(found.items[part])


@pytest.mark.parametrize("rule", every_rule(), ids=name)
def test_the_order_of_the_source_does_not_matter_where_times_differ(rule: SplitRule) -> None:
    frame = log(3, size=150, span=150)
    order = np.random.default_rng(0).permutation(len(frame))
    first, second = split(rule, frame), split(rule, frame[order])
    for part in PARTS:
        assert set(first.rows[part]) == set(order[second.rows[part]])
    for part in PARTS[1:]:
        assert np.array_equal(first.query_users[part], second.query_users[part])
        assert np.array_equal(first.candidates[part], second.candidates[part])
        assert np.array_equal(first.passed[part], second.passed[part])
        where = np.argsort(order)[first.rows[part]]
        question = dict(zip(second.rows[part].tolist(), second.queries[part].tolist(), strict=True))
        assert [question[row] for row in where] == first.queries[part].tolist()
    assert first.report == second.report
    assert first.report["ambiguous_targets"] == 0


@pytest.mark.parametrize(
    ("kind", "target"), [*((UserTime, target) for target in TARGETS), (GlobalTime, "all"), (GlobalTime, "successive")]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_ambiguous_targets_are_those_that_another_order_changes(kind, target: str, seed: int) -> None:
    frame = log(seed, size=60, span=15)
    rule = kind(valid=0.2, test=0.3, target=target, **KEEP)
    times = dict(zip(frame.select("user_id", "item_id").rows(), frame["timestamp"], strict=True))

    def fates(order: np.ndarray) -> dict[tuple[int, int], object]:
        """Part of each asked row, and the items passed at its very time."""
        found, result = split(rule, frame[order]), {}
        for part in PARTS[1:]:
            passed = set(zip(*(pairs.tolist() for pairs in found.passed[part]), strict=True))
            for user, item, question in zip(found.users[part], found.items[part], found.queries[part], strict=True):
                same = {other for q, other in passed if q == question and times[user, other] == times[user, item]}
                result[user, item] = part, same
        return result

    base = fates(np.arange(len(frame)))
    shuffled = [fates(np.random.default_rng(shuffle).permutation(len(frame))) for shuffle in range(25)]
    changed = [row for row, fate in base.items() if any(other.get(row) != fate for other in shuffled)]
    assert split(rule, frame).report["ambiguous_targets"] == pytest.approx(len(changed) / len(base), abs=1e-4)


@pytest.mark.parametrize(
    "rule",
    [UserTime(valid=0.2, test=0.2, target="all", **WHOLE), Random(valid=0.2, test=0.2, seed=0, **WHOLE)],
    ids=name,
)
@pytest.mark.parametrize("seed", range(3))
def test_leakage_is_what_brute_force_counts(rule: SplitRule, seed: int) -> None:
    frame = log(seed)
    found = split(rule, frame)
    train, test = (
        list(zip(found.users[part], frame["timestamp"].gather(found.rows[part]), strict=True))
        for part in ("train", "test")
    )
    first = min(time for _, time in test)
    later = [sum(other > time for _, other in train) / len(train) for _, time in test]
    own = [any(who == user and other > time for who, other in train) for user, time in test]
    assert found.report["leakage"] == pytest.approx(
        {
            "after_first_test": sum(time > first for _, time in train) / len(train),
            "after_test": sum(later) / len(later),
            "own_future": sum(own) / len(own),
        },
        abs=1e-4,
    )


def test_global_time_does_not_leak() -> None:
    report = split(GlobalTime(valid=0.2, test=0.2, target="all", **KEEP), log(0)).report
    assert set(report["leakage"].values()) == {0.0}


def test_a_day_that_global_time_cuts_is_ambiguous_for_all_its_users() -> None:
    frame = pl.DataFrame(
        {"user_id": range(10), "item_id": 0, "timestamp": [0] * 6 + [1] * 4, "value": 1.0, "label": True}
    )
    rule = GlobalTime(valid=0.2, test=0.2, target="all", **KEEP)
    assert split(rule, frame).report["ambiguous_targets"] == 1.0


def test_user_time_is_chronological_and_stable() -> None:
    frame = pl.DataFrame({"user_id": [0] * 10, "item_id": range(10), "timestamp": [5, 5, 5, 1, 1, 9, 9, 9, 9, 0]})
    parts = UserTime(valid=0.1, test=0.1, target="all", **WHOLE)(frame, np.ones(10, np.bool_))
    assert np.flatnonzero(parts == VALID).tolist() == [7]  # ties keep the order of the source
    assert np.flatnonzero(parts == TEST).tolist() == [8]


def test_leave_one_out_trains_on_short_histories() -> None:
    frame = pl.DataFrame({"user_id": [0, 0, 1, 1, 1], "item_id": [0, 1, 0, 1, 2], "timestamp": [2, 1, 1, 3, 2]})
    assert LeaveOneOut(**WHOLE)(frame, np.ones(5, np.bool_)).tolist() == [TRAIN, TRAIN, TRAIN, TEST, VALID]


def test_an_empty_part_is_an_error() -> None:
    frame = log(0)[:2]
    with pytest.raises(UserError, match="leaves no valid interaction"):
        split(LeaveOneOut(**WHOLE), frame)
    with pytest.raises(UserError, match=r"split.min_user=9, split.min_item=0 leave no row"):
        split(LeaveOneOut(**WHOLE | {"min_user": 9}), frame)


@pytest.mark.parametrize(
    "change",
    [
        {"cold_items": "some"},
        {"cold_users": "some"},
        {"valid": 0.0},
        {"test": 0.5},
        {"target": "any"},
        {"min_user": -1},
    ],
)
def test_bad_rules_are_refused(change) -> None:
    with pytest.raises(UserError, match=rf"split\.{next(iter(change))}="):
        UserTime(**{"valid": 0.1, "test": 0.1, "target": "all", **WHOLE, **change})


def fixed(folder: Path, parts: dict[str, pl.DataFrame], **changes: object) -> Fixed:
    paths: dict[str, object] = {"train": None}
    for part, frame in parts.items():
        paths[part] = str(folder / f"{part}.csv")
        frame.write_csv(folder / f"{part}.csv")
    columns = {"user": "user_id", "item": "item_id", "timestamp": None}
    return Fixed(**{**KEEP, **paths, "columns": columns, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("as_text", [False, True])
def test_fixed_repeats_a_published_split(tmp_path: Path, as_text: bool) -> None:
    frame = log(0)
    if as_text:
        frame = frame.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    indices = log(0)["user_id"].to_numpy(), log(0)["item_id"].to_numpy()
    known = make_split(Random(valid=0.2, test=0.2, seed=0, **KEEP), frame, *indices, NUM_ITEMS)
    parts = {part: frame[known.rows[part]] for part in PARTS}
    for listed in (parts, {part: parts[part] for part in ("valid", "test")}):
        found = make_split(fixed(tmp_path, listed), frame, *indices, NUM_ITEMS)
        assert all(np.array_equal(found.rows[part], known.rows[part]) for part in PARTS)
    some = fixed(tmp_path, parts | {"train": parts["train"][5:]})
    found = make_split(some, frame, *indices, NUM_ITEMS)
    assert found.report["dropped"]["no_part"] == {"core": 0, "unlisted": 5}
    small = make_split(fixed(tmp_path, parts, min_user=7), frame, *indices, NUM_ITEMS)
    assert small.report["dropped"]["no_part"]["core"] > 0
    assert all(set(small.rows[part]) < set(known.rows[part]) for part in PARTS)


def test_fixed_tells_repeated_pairs_apart_by_time(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [2, 2, 2], "timestamp": [10, 20, 30]})
    parts = {"valid": frame[1:2], "test": frame[2:]}
    columns = {"user": "user_id", "item": "item_id", "timestamp": "timestamp"}
    everything = np.ones(3, np.bool_)
    assert fixed(tmp_path, parts, columns=columns)(frame, everything).tolist() == [TRAIN, VALID, TEST]
    with pytest.raises(UserError, match=r"user_id=1, item_id=2 is also listed for another part.*; 1 such"):
        fixed(tmp_path, parts)(frame, everything)
    with pytest.raises(UserError, match=r"timestamp=11 is not in the dataset"):
        fixed(
            tmp_path, {**parts, "test": pl.DataFrame({"user_id": 1, "item_id": 2, "timestamp": 11})}, columns=columns
        )(frame, everything)


def test_fixed_says_what_is_wrong(tmp_path: Path) -> None:
    frame = log(0)
    parts, everything = {"valid": frame[:5], "test": frame[5:9]}, np.ones(len(frame), np.bool_)
    strange = pl.concat(
        [frame[5:7].select("user_id", "item_id"), pl.DataFrame({"user_id": [77, 78], "item_id": [0, 1]})]
    )
    mistakes = {
        rf"split.test={tmp_path}/test.csv: user_id=77, item_id=0 is not in the dataset.*; 2 such rows": (
            {**parts, "test": strange}, {}),
        r"split.columns.user=who is not in .*valid.csv; its columns are": (
            parts, {"columns": {"user": "who", "item": "item_id"}}),
        r"split.columns.item has no value": (parts, {"columns": {"user": "user_id", "item": None}}),
        r"no such file: nowhere.csv": (parts, {"train": "nowhere.csv"}),
    }  # fmt: skip
    for message, (listed, changes) in mistakes.items():
        with pytest.raises(UserError, match=message):
            fixed(tmp_path, listed, **changes)(frame, everything)


def test_fixed_is_identified_by_the_content_of_its_files(tmp_path: Path) -> None:
    parts = {"valid": log(0)[:5], "test": log(0)[5:9]}
    (tmp_path / "elsewhere").mkdir()
    first, moved = fixed(tmp_path, parts), fixed(tmp_path / "elsewhere", parts)
    assert first.identity() == moved.identity()
    assert first.identity() != fixed(tmp_path, {**parts, "test": log(0)[5:8]}).identity()


def test_unlisted_rows_have_no_part(tmp_path: Path) -> None:
    frame = log(0)
    rule = fixed(tmp_path, {"train": frame[:9], "valid": frame[9:10], "test": frame[10:11]})
    assert Counter(rule(frame, np.ones(len(frame), np.bool_)).tolist()) == {NO_PART: 129, TRAIN: 9, VALID: 1, TEST: 1}
