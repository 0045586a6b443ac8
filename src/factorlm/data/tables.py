"""Canonical tables: what every source delivers and everything later reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from factorlm.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Tables:
    """Interactions, users and items of one dataset, held as memory-mapped Arrow.

    Attributes:
        interactions: ``user_id, item_id`` (both int64 or string), ``timestamp`` (int64, seconds since 1970) and
            ``value`` (float32, 1.0 where the source has none), one row per user-item pair, in the order of the source.
        users: ``user_id`` and any columns, one row per user, sorted by id. The row number is the user's index.
        items: ``item_id`` and any columns, one row per item, sorted by id. The row number is the item's index.
    """

    interactions: Dataset
    users: Dataset
    items: Dataset


@dataclass(frozen=True)
class Frames:
    """The same three tables while they are being prepared."""

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame


def frame(table: Dataset) -> pl.DataFrame:
    """View a `datasets.Dataset` as a polars frame without copying."""
    result = pl.from_arrow(table.data.table)
    assert isinstance(result, pl.DataFrame)
    return result


def fingerprint(*frames: pl.DataFrame) -> str:
    """Hash of the content of frames: equal for equal names, values and row order, on any machine."""
    digest = hashlib.sha256()
    for content in frames:
        digest.update(content.write_ndjson().encode())
    return digest.hexdigest()[:16]


def canonical(
    interactions: pl.DataFrame,
    users: pl.DataFrame | None,
    items: pl.DataFrame | None,
    *,
    min_value: float | None,
    text: str | None,
    source: str,
) -> Frames:
    """Check the columns of a source, keep the positive interactions and complete the users and items tables.

    Args:
        interactions: columns ``user_id, item_id, timestamp`` and, optionally, ``value``.
        users: column ``user_id`` and any others, or None.
        items: column ``item_id`` and any others, or None.
        min_value: interactions with a smaller value are not positives and are dropped; None keeps all.
        text: template over the item columns, such as ``"{title} ({year})"``; it becomes the column ``text``.
        source: file or dataset name for messages.

    Raises:
        UserError: ids or times missing, duplicate rows, nothing left, or a template column that does not exist.
    """
    if interactions.is_empty():
        raise UserError(f"{source} has no rows: give a file with at least one interaction")
    if "value" not in interactions.columns:
        if min_value is not None:
            raise UserError(f"dataset.min_value={min_value:g} needs a value column, and {source} has none")
        interactions = interactions.with_columns(value=pl.lit(1.0))
    interactions = interactions.select(
        _id(interactions, "user_id"),
        _id(interactions, "item_id"),
        pl.col("timestamp").cast(pl.Int64),
        pl.col("value").cast(pl.Float32),
    )
    _refuse(
        interactions,
        pl.any_horizontal(pl.all().is_null() | pl.col("value").is_nan()),
        "a missing value",
        source,
    )
    duplicates = pl.struct("user_id", "item_id", "timestamp").is_duplicated()
    _refuse(interactions, duplicates, "a duplicate user, item and time", source)
    catalogue = interactions
    if min_value is not None:
        interactions = interactions.filter(pl.col("value") >= min_value)
        if interactions.is_empty():
            raise UserError(f"dataset.min_value={min_value:g} leaves no interaction of {source}: lower it")
    interactions = (  # a repeated pair counts once, at its first time
        interactions.with_row_index("row")
        .sort("timestamp", "row")
        .unique(["user_id", "item_id"], keep="first", maintain_order=True)
        .sort("row")
        .drop("row")
    )
    users = _complete(users, catalogue, "user_id", source)
    items = _complete(items, catalogue, "item_id", source)
    if text is not None:
        items = items.with_columns(text=_rendered(items, text))
    return Frames(interactions, users, items)


def _id(table: pl.DataFrame, column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Int64 if table.schema[column].is_integer() else pl.String)


def _refuse(table: pl.DataFrame, condition: pl.Expr, what: str, source: str) -> None:
    rows = table.with_row_index("row").filter(condition)
    if not rows.is_empty():
        row = rows.row(0, named=True)
        values = ", ".join(f"{key}={value}" for key, value in row.items() if key != "row")
        raise UserError(
            f"{source}: data row {row['row'] + 1} has {what} ({values}); {len(rows)} such rows: remove them"
        )


def _complete(table: pl.DataFrame | None, interactions: pl.DataFrame, key: str, source: str) -> pl.DataFrame:
    seen = interactions.select(key).unique()
    if table is None:
        return seen.sort(key)
    dtype = interactions.schema[key]
    if table.schema[key].is_integer() != dtype.is_integer():
        raise UserError(f"{source}: {key} is {dtype} in the interactions and {table.schema[key]} in its own table")
    table = table.with_columns(pl.col(key).cast(dtype))
    if table[key].is_duplicated().any():
        twice = table[key].filter(table[key].is_duplicated())[0]
        raise UserError(f"{source}: {key}={twice} stands twice in its table: keep one row for each")
    return pl.concat([table, seen.join(table, on=key, how="anti")], how="diagonal").sort(key)


def _rendered(items: pl.DataFrame, template: str) -> pl.Series:
    from string import Formatter

    try:
        parsed = [(name, form) for _, name, form, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"dataset.text={template!r} is no template: {error}") from error
    columns = [name for name, _ in parsed]
    for column, form in parsed:
        if form:
            raise UserError(f"dataset.text={template!r}: {{{column}:{form}}} must be plain {{{column}}}")
        if column not in items.columns:
            raise UserError(f"dataset.text={template!r} names {column!r}; item columns are {', '.join(items.columns)}")
    texts = [
        pl.col(name).cast(pl.List(pl.String)).list.join(", ") if isinstance(dtype, pl.List) else pl.col(name)
        for name, dtype in items.select(columns).schema.items()
    ]
    rows = items.select(texts).with_columns(pl.all().cast(pl.String, strict=False).fill_null("")).iter_rows(named=True)
    return pl.Series("text", [template.format_map(row).strip() for row in rows], dtype=pl.String)
