"""Canonical tables: what every source delivers and everything later reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl
import pyarrow as pa

from factorlm.errors import UserError

Negatives = Literal["drop", "keep"]


@dataclass(frozen=True)
class Tables:
    """Interactions, users and items of one dataset, held as memory-mapped Arrow.

    Attributes:
        interactions: ``user_id, item_id`` (both int64 or string), ``timestamp`` (int64, seconds since 1970),
            ``value`` (float32, 1.0 where the source has none) and ``label`` (whether it is a positive), in the order
            of the source. Without negatives a user-item pair has one row.
        users: ``user_id`` and any columns, one row per user, sorted by id. The row number is the user's index.
        items: ``item_id`` and any columns, one row per item, sorted by id. The row number is the item's index.
    """

    interactions: pa.Table
    users: pa.Table
    items: pa.Table


@dataclass(frozen=True)
class Frames:
    """The same three tables while they are being prepared."""

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame


def frame(table: pa.Table) -> pl.DataFrame:
    """View a table as a polars frame; numbers are not copied."""
    result = pl.from_arrow(table)
    assert isinstance(result, pl.DataFrame)
    return result


def fingerprint(*frames: pl.DataFrame) -> str:
    """Hash of the content of frames: equal for equal names, values and row order, on any machine."""
    digest = hashlib.sha256()
    for content in frames:
        for rows in content.iter_slices(100_000):  # the text of all rows would be six times as large as the frame
            digest.update(rows.write_ndjson().encode())
    return digest.hexdigest()[:16]


def canonical(
    interactions: pl.DataFrame,
    users: pl.DataFrame | None,
    items: pl.DataFrame | None,
    *,
    min_value: float | None,
    negatives: Negatives,
    text: str | None,
    source: str,
) -> Frames:
    """Check the columns of a source, label the interactions and complete the users and items tables.

    Args:
        interactions: columns ``user_id, item_id, timestamp`` and, optionally, ``value``.
        users: column ``user_id`` and any others, or None.
        items: column ``item_id`` and any others, or None.
        min_value: interactions with a smaller value are negatives. None: there are none, or, where they are kept,
            values are 0 and 1 and are the labels.
        negatives: ``drop`` them, and all but the first of repeated pairs, or ``keep`` all rows.
        text: template over the item columns, such as ``"{title} ({year})"``; it becomes the column ``text``.
        source: file or dataset name for messages.

    Raises:
        UserError: ids or times missing, duplicate rows, no positives or labels, or an unknown template column.
    """
    if interactions.is_empty():
        raise UserError(f"{source} has no rows: give a file with at least one interaction")
    if negatives not in get_args(Negatives):
        raise UserError(f"dataset.negatives={negatives!r}: it must be one of {', '.join(get_args(Negatives))}")
    if "value" not in interactions.columns:
        for key, needs in ((f"min_value={min_value}", min_value is not None), ("negatives=keep", negatives == "keep")):
            if needs:
                raise UserError(f"dataset.{key} needs a value column, and {source} has none")
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
    keys = interactions.select("user_id", "item_id", "timestamp")
    if keys.hash_rows().n_unique() < len(keys):  # otherwise no row is another's duplicate
        duplicates = pl.struct(keys.columns).is_duplicated()
        _refuse(interactions, duplicates, "a duplicate user, item and time", source)
    catalogue = interactions
    interactions = interactions.with_columns(label=_label(interactions, min_value, negatives, source))
    if not interactions["label"].any():
        raise UserError(f"dataset.min_value={min_value} leaves no positive interaction of {source}: lower it")
    if negatives == "drop":
        interactions = _first_of_pairs(interactions.filter("label"))
    users = _complete(users, catalogue, "user_id", source)
    items = _complete(items, catalogue, "item_id", source)
    if text is not None:
        items = items.with_columns(
            text=pl.Series([row.strip() for row in rendered(items, text, "dataset.text")], dtype=pl.String)
        )
    return Frames(interactions, users, items)


def _id(table: pl.DataFrame, column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Int64 if table.schema[column].is_integer() else pl.String)


def _label(table: pl.DataFrame, min_value: float | None, negatives: Negatives, source: str) -> pl.Expr:
    if min_value is not None:
        return pl.col("value") >= min_value
    if negatives == "drop":
        return pl.lit(True)
    other = table["value"].filter(~table["value"].is_in([0.0, 1.0]))
    if len(other):
        raise UserError(
            f"dataset.negatives=keep: {source} has values other than 0 and 1 ({other[0]}): set dataset.min_value"
        )
    return pl.col("value") == 1


def _refuse(table: pl.DataFrame, condition: pl.Expr, what: str, source: str) -> None:
    rows = table.with_row_index("row").filter(condition)
    if not rows.is_empty():
        row = rows.row(0, named=True)
        values = ", ".join(f"{key}={value}" for key, value in row.items() if key != "row")
        raise UserError(
            f"{source}: data row {row['row'] + 1} has {what} ({values}); {len(rows)} such rows: remove them"
        )


def _first_of_pairs(table: pl.DataFrame) -> pl.DataFrame:
    """Let a pair of user and item that repeats count once, at its first time."""
    pair = ["user_id", "item_id"]
    hashes = table.select(pair).hash_rows()
    ordered = hashes.sort()
    repeated = hashes.is_in(ordered.filter(ordered == ordered.shift(1)).unique().implode())  # or another has its hash
    rows = table.with_row_index("row").filter(repeated).sort("timestamp", "row")
    kept = ~repeated.to_numpy()
    kept[rows.unique(pair, keep="first", maintain_order=True)["row"].to_numpy()] = True
    return table.filter(pl.Series(kept))


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


def rendered(items: pl.DataFrame, template: str, key: str) -> list[str]:
    """Each item written by a template over its columns; what is missing is written as nothing.

    Args:
        items: table of the items.
        template: such as ``"{title} ({year})"``.
        key: of the template in the config, for messages.

    Raises:
        UserError: the template names no column, or one that the table has not, or formats one.
    """
    from string import Formatter

    try:
        parsed = [(name, form) for _, name, form, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"{key}={template!r} is no template: {error}") from error
    columns = list(dict.fromkeys(name for name, _ in parsed))
    if not columns:
        raise UserError(f"{key}={template!r} names no column: write one in braces, as in '{{title}}'")
    for column, form in parsed:
        if form:
            raise UserError(f"{key}={template!r}: {{{column}:{form}}} must be plain {{{column}}}")
        if column not in items.columns:
            raise UserError(f"{key}={template!r} names {column!r}; item columns are {', '.join(items.columns)}")
    texts = [
        pl.col(name).cast(pl.List(pl.String)).list.join(", ") if isinstance(dtype, pl.List) else pl.col(name)
        for name, dtype in items.select(columns).schema.items()
    ]
    rows = items.select(texts).with_columns(pl.all().cast(pl.String, strict=False).fill_null("")).iter_rows(named=True)
    return [template.format_map(row) for row in rows]
