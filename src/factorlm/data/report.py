"""What a split costs: rows lost, times that do not decide, and how much training knows of the future."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from factorlm.data.rules import NO_PART, PARTS, VALID, Indices, Mask, SplitRule

LOSSES = ("cold_user", "cold_item", "not_asked")


def split_report(
    rule: SplitRule, log: pl.DataFrame, kept: Mapping[str, pl.DataFrame], questions: Mapping[str, int]
) -> dict[str, Any]:
    """Describe a split.

    Args:
        rule: that made it.
        log: ``timestamp, label, user, item, part``, ``position`` in the history of the user, ``new_user`` and
            ``new_item`` (not in training) and ``fate`` (``kept``, ``not_asked``, ``cold_user``, ``cold_item``, ``core``
            or ``unlisted``), one row for each interaction.
        kept: rows of the log by part.
        questions: number of them, for valid and test.

    Returns:
        ``rule``; ``rows, positives, users, items`` by part; ``questions``; ``dropped`` by part and reason, where
        ``no_part`` holds rows outside the core and rows that no file lists; ``cold``: kept rows whose user or item
        training lacks; ``tied_timestamps``: share of interactions at the same time as another of their user;
        ``ambiguous_targets``, see `ambiguous_targets`; ``leakage``, see `leakage`.
    """
    lost = {(part, fate): count for part, fate, count in log.group_by("part", "fate").len().rows()}
    dropped = {
        "no_part": {fate: lost.get((NO_PART, fate), 0) for fate in ("core", "unlisted")},
        **{part: {fate: lost.get((PARTS.index(part), fate), 0) for fate in LOSSES} for part in PARTS[1:]},
    }
    return {
        "rule": rule.identity(),
        "rows": {part: len(rows) for part, rows in kept.items()},
        "positives": {part: int(rows["label"].sum()) for part, rows in kept.items()},
        "users": {part: rows["user"].n_unique() for part, rows in kept.items()},
        "items": {part: rows["item"].n_unique() for part, rows in kept.items()},
        "questions": dict(questions),
        "dropped": dropped,
        "cold": {
            part: {f"cold_{side}": int(kept[part][f"new_{side}"].sum()) for side in ("user", "item")}
            for part in PARTS[1:]
        },
        "tied_timestamps": round(_tied(log), 4),
        "ambiguous_targets": round(ambiguous_targets(rule, log), 4),
        "leakage": {name: round(share, 4) for name, share in leakage(kept["train"], kept["test"]).items()},
    }


def ambiguous_targets(rule: SplitRule, log: pl.DataFrame) -> float:
    """Share of kept valid and test rows that another order of equal times would have put elsewhere.

    Such a row has the time of a row of another part, of the same user or, where the rule orders all users together, of
    any; or, where targets are single rows, of another row of its user and part. The last or first row of a part is
    also in doubt if such a time could bring another row of its user behind or before it.
    """
    if not rule.ordered:
        return 0.0
    part, own = log["part"].to_numpy(), _by_user_and_time(log)
    order = own if "user" in rule.ordered else np.argsort(log["timestamp"].to_numpy(), kind="stable")
    own, order = own[part[own] != NO_PART], order[part[order] != NO_PART]
    first = _firsts(log, order, rule.ordered)
    torn = np.maximum.reduceat(part[order], first) > np.minimum.reduceat(part[order], first)
    rows = log.with_columns(torn=_by_row(torn, order, first, len(log)), crowded=False)
    if rule.target != "all":
        known = log["fate"].is_in(["kept", "not_asked"]).to_numpy().astype(np.int64)
        first = _firsts(log, own, ("user", "timestamp"))
        rows = rows.with_columns(crowded=_by_row(np.add.reduceat(known[own], first) > 1, own, first, len(log)))
    targets = rows.filter(pl.col("part") >= VALID, pl.col("fate") == "kept").with_row_index("target")
    doubtful = targets.filter(pl.col("torn") | pl.col("crowded"))["target"]
    if rule.target in ("last", "first"):
        parts = rows.filter("torn").select(*rule.ordered, "part").unique()
        movable = rows.filter("torn").select("user", "timestamp").join(parts, on=list(set(rule.ordered)))
        reach = (
            pl.col("moved") >= pl.col("timestamp") if rule.target == "last" else pl.col("moved") <= pl.col("timestamp")
        )
        movable = movable.rename({"timestamp": "moved"}).unique()
        doubtful = pl.concat([doubtful, targets.join(movable, on=["user", "part"]).filter(reach)["target"]])
    return doubtful.n_unique() / len(targets)


def _tied(log: pl.DataFrame) -> float:
    """Share of rows at the same time as another of their user."""
    sizes = np.diff(_firsts(log, _by_user_and_time(log), ("user", "timestamp")), append=len(log))
    return float(sizes[sizes > 1].sum() / len(log))


def _by_user_and_time(log: pl.DataFrame) -> Indices:
    """The order of the rows by user, then time: [n]."""
    users = log["user"].to_numpy()
    counts = np.bincount(users)
    order = np.empty(len(log), np.int64)
    order[(np.cumsum(counts) - counts)[users] + log["position"].to_numpy()] = np.arange(len(log))
    return order


def _firsts(log: pl.DataFrame, order: Indices, columns: Sequence[str]) -> Indices:
    """Where, in an order that has rows of equal columns side by side, each group of them begins: [g]."""
    first = np.arange(len(order)) == 0
    for name in columns:
        values = log[name].to_numpy()[order]
        first[1:] |= values[1:] != values[:-1]
    return np.flatnonzero(first)


def _by_row(groups: Mask, order: Indices, first: Indices, size: int) -> pl.Series:
    """What is known of groups [g], of each of ``size`` rows; False of rows that are not in the order."""
    values = np.zeros(size, np.bool_)
    values[order] = groups.repeat(np.diff(first, append=len(order)))
    return pl.Series(values)


def leakage(train: pl.DataFrame, test: pl.DataFrame) -> dict[str, float]:
    """How much of training lies in the future of test; 0 for each is none.

    Args:
        train, test: rows with ``user`` and ``timestamp``.

    Returns:
        ``after_first_test``: share of training rows later than the first test row. ``after_test``: share of training
        rows later than a test row, mean over test rows. ``own_future``: share of test rows whose user has a later
        training row.
    """
    times, tested = train["timestamp"].sort().to_numpy(), test["timestamp"].to_numpy()
    later = 1 - np.searchsorted(times, tested, side="right") / len(times)
    last = test.join(train.group_by("user").agg(last=pl.col("timestamp").max()), on="user", how="left")
    return {
        "after_first_test": float(later.max()),
        "after_test": float(later.mean()),
        "own_future": float((last["last"] > last["timestamp"]).fill_null(False).mean()),  # type: ignore[arg-type]
    }
