"""The rows of each part of a split, who is asked what, and who is ranked against whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from factorlm.data.report import split_report
from factorlm.data.rules import NO_PART, PARTS, TRAIN, VALID, Indices, Mask, SplitRule, Target, positions
from factorlm.errors import UserError

FATES = pl.Enum(["kept", "not_asked", "cold_user", "cold_item", "core", "unlisted"])


@dataclass(frozen=True)
class Split:
    """Interactions of each part, the questions they answer, and what the rule cost.

    Rows keep the order of the source. With the target rule ``all`` a question is a user with all rows of the part; with
    the others each row of valid and test is the target of its own question.

    Attributes:
        rows: ``{part: [n] int64}`` row numbers in the interactions table.
        users, items: ``{part: [n] int64}`` indices into the users and items tables.
        values: ``{part: [n] float32}`` value of the source, 1 where it has none.
        labels: ``{part: [n] bool}`` whether the interaction is a positive.
        queries: ``{part: [n] int64}`` question that each row answers, 0..Q-1; for valid and test, as all below.
        query_users: ``{part: [Q] int64}`` user of each question, ascending by user, then time.
        passed: ``{part: ([m] question, [m] item)}``, int64: what the user had before the target of the question, in
            the same part or, not asked, in an earlier one; these items are no candidates of the question.
        candidates: ``{part: [c] int64}`` sorted item indices.
        report: counts, tied times, leakage, and what was dropped and why.
    """

    rows: dict[str, Indices]
    users: dict[str, Indices]
    items: dict[str, Indices]
    values: dict[str, npt.NDArray[np.float32]]
    labels: dict[str, Mask]
    queries: dict[str, Indices]
    query_users: dict[str, Indices]
    passed: dict[str, tuple[Indices, Indices]]
    candidates: dict[str, Indices]
    report: dict[str, Any]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All but the report, by ``part_attribute``; the two of ``passed`` are stacked to [2, m]."""
        named = {name: content for name, content in vars(self).items() if name != "report"}
        return {f"{part}_{name}": np.asarray(array) for name, parts in named.items() for part, array in parts.items()}

    @staticmethod
    def of(arrays: Mapping[str, npt.NDArray[Any]], report: dict[str, Any]) -> Split:
        """The inverse of `arrays`."""
        named: dict[str, dict[str, Any]] = {}
        for key, array in arrays.items():
            part, _, name = key.partition("_")
            named.setdefault(name, {})[part] = (array[0], array[1]) if name == "passed" else array
        return Split(**named, report=report)


def make_split(
    rule: SplitRule, interactions: pl.DataFrame, user_index: Indices, item_index: Indices, num_items: int
) -> Split:
    """Apply a rule: the core first, then the parts, then what becomes of cold rows, then what is asked.

    Args:
        rule: the split.
        interactions: the canonical interactions, n rows.
        user_index, item_index: [n] index of each interaction's user and item.
        num_items: items in the catalogue.

    Raises:
        UserError: a part is empty.
    """
    core = k_core(user_index, item_index, interactions["label"].to_numpy(), rule.min_user, rule.min_item)
    if not core.any():
        raise UserError(f"split.min_user={rule.min_user}, split.min_item={rule.min_item} leave no row: lower them")
    parts = np.full(len(interactions), NO_PART, np.int8)
    parts[core] = rule(interactions, core)
    log = interactions.select("timestamp", "value", "label", row=pl.int_range(pl.len())).with_columns(
        user=pl.Series(user_index), item=pl.Series(item_index), part=pl.Series(parts), core=pl.Series(core),
        position=pl.Series(positions(interactions)[0]),
    )  # fmt: skip
    log = _with_fates(log, rule)
    kept = {part: log.filter(pl.col("fate") == "kept", pl.col("part") == code) for code, part in enumerate(PARTS)}
    for part, rows in kept.items():
        if rows.is_empty():
            raise UserError(f"split {rule} leaves no {part} interaction out of {len(interactions)}: take another split")
    queries, query_users, passed, candidates = {}, {}, {}, {}
    catalogue = _catalogue(item_index, core, num_items, rule.min_item)
    for part in PARTS[1:]:
        queries[part], query_users[part] = _questions(kept[part], rule.target)
        passed[part] = _passed(log, kept[part].with_columns(query=queries[part]), rule.target)
        ranked = {"train": _array(kept["train"], "item"), "all": catalogue, "part": _array(kept[part], "item")}
        candidates[part] = np.flatnonzero(np.bincount(ranked[rule.candidates]))
    columns = {"rows": "row", "users": "user", "items": "item", "values": "value", "labels": "label"}
    return Split(
        **{name: {part: _array(rows, column) for part, rows in kept.items()} for name, column in columns.items()},
        queries=queries,
        query_users=query_users,
        passed=passed,
        candidates=candidates,
        report=split_report(rule, log, kept, {part: len(users) for part, users in query_users.items()}),
    )


def k_core(users: Indices, items: Indices, labels: Mask, min_user: int, min_item: int) -> Mask:
    """Rows left when users and items with too few positives are removed, again and again: [n].

    Args:
        users, items: [n] indices.
        labels: [n] which rows are positives; only these count, and all rows of a removed user or item go.
        min_user, min_item: positives that a user and an item need.
    """
    core = np.ones(len(users), np.bool_)
    while True:
        smaller = core.copy()
        for ids, least in ((users, min_user), (items, min_item)):
            smaller &= np.bincount(ids[core & labels], minlength=ids.max() + 1)[ids] >= least
        if smaller.sum() == core.sum():
            return core
        core = smaller


def _catalogue(items: Indices, core: Mask, num_items: int, min_item: int) -> Indices:
    """All items but those that the core left out."""
    inside = np.bincount(items[core], minlength=num_items) > 0
    untouched = np.bincount(items, minlength=num_items) == 0
    return np.flatnonzero(inside | (untouched & (min_item == 0)))


def _with_fates(log: pl.DataFrame, rule: SplitRule) -> pl.DataFrame:
    """Add ``new_user`` and ``new_item``, whether training lacks them, and ``fate``: kept, or why not."""
    train = log.filter(pl.col("part") == TRAIN)
    held_out = pl.col("part") >= VALID
    listed = pl.lit(False) if rule.asked_from is None else held_out & (pl.col("timestamp") < rule.asked_from)
    log = log.with_columns(
        new_user=~pl.col("user").is_in(train["user"].unique().implode()),
        new_item=~pl.col("item").is_in(train["item"].unique().implode()),
    )
    log = log.with_columns(
        fate=pl.when(~pl.col("core")).then(pl.lit("core"))
        .when(pl.col("part") == NO_PART).then(pl.lit("unlisted"))
        .when(held_out & pl.col("new_user") & (rule.cold_users == "drop")).then(pl.lit("cold_user"))
        .when(held_out & pl.col("new_item") & (rule.cold_items == "drop")).then(pl.lit("cold_item"))
        .when(listed).then(pl.lit("not_asked"))
        .otherwise(pl.lit("kept")).cast(FATES)
    )  # fmt: skip
    if rule.target not in ("last", "first"):
        return log
    position = pl.col("position").max() if rule.target == "last" else pl.col("position").min()
    target = pl.col("position") == position.over("user", "part", "fate")
    return log.with_columns(
        fate=pl.when(held_out & (pl.col("fate") == "kept") & ~target)
        .then(pl.lit("not_asked", FATES))
        .otherwise(pl.col("fate"))
    )


def _questions(rows: pl.DataFrame, target: Target) -> tuple[Indices, Indices]:
    """Question of each row [n] and user of each question [Q]."""
    users = _array(rows, "user")
    if target == "all":
        asked, queries = np.unique(users, return_inverse=True)
        return queries.astype(np.int64), asked
    order = np.lexsort((_array(rows, "position"), users))
    return np.argsort(order), users[order]


def _passed(log: pl.DataFrame, targets: pl.DataFrame, target: Target) -> tuple[Indices, Indices]:
    """Question and item [m] of what users had before a target, in its part or, not asked, in an earlier one."""
    if target == "all":
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    had = log.filter(pl.col("part") >= VALID, pl.col("fate").is_in(["kept", "not_asked"]))
    pairs = targets.join(had, on="user", suffix="_had").filter(
        pl.col("position_had") < pl.col("position"),
        (pl.col("part_had") == pl.col("part")) | (pl.col("fate_had") == "not_asked"),
        pl.col("item_had") != pl.col("item"),
    )
    pairs = pairs.select("query", "item_had").unique().sort("query", "item_had")
    return _array(pairs, "query"), _array(pairs, "item_had")


def _array(rows: pl.DataFrame, column: str) -> npt.NDArray[Any]:
    return rows[column].to_numpy(writable=True)
