"""A user's own files: parquet, csv, tsv or jsonl with a column mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from factorlm.assets import sha256_of
from factorlm.data.tables import Frames, canonical
from factorlm.errors import UserError

READERS = {".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"}


@dataclass(frozen=True)
class Files:
    """Interactions, and optionally items and users, from files of your own.

    Args:
        interactions: path of the interactions; ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl``.
        items: path of the items table, or None.
        users: path of the users table, or None.
        columns: names in the files of ``user``, ``item``, ``timestamp`` (seconds, or ISO dates) and ``value`` (None:
            every row is a positive interaction). The users and items tables use the same names for their key.
        min_value: interactions with a smaller value are dropped; None keeps all.
        text: template of the item text over the columns of the items table, such as ``"{name}: {blurb}"``.
    """

    interactions: str
    items: str | None
    users: str | None
    columns: Mapping[str, str | None]
    min_value: float | None
    text: str | None

    def identity(self) -> object:
        """The checksums of the files and the mapping."""
        paths = [self.interactions, self.items, self.users]
        sums = [path and sha256_of(_existing(path)) for path in paths]
        return ["files", sums, dict(self.columns), self.min_value, self.text]

    def load(self, cache_dir: Path) -> Frames:
        """Read and check the files."""
        for role in ("user", "item", "timestamp"):
            if not self.columns.get(role):
                raise UserError(f"dataset.columns.{role} has no value: name the column of {self.interactions}")
        raw = _read(self.interactions, self._ids)
        names = {role: _column(raw, name, role, self.interactions) for role, name in self.columns.items() if name}
        value = {"value": _number(raw, names["value"], self.interactions)} if "value" in names else {}
        interactions = raw.select(
            user_id=_identifier(raw[names["user"]]),
            item_id=_identifier(raw[names["item"]]),
            timestamp=_seconds(raw, names["timestamp"], self.interactions),
            **value,
        )
        return canonical(
            interactions,
            self._keyed(self.users, "user", "user_id"),
            self._keyed(self.items, "item", "item_id"),
            min_value=self.min_value,
            text=self.text,
            source=self.interactions,
        )

    def _keyed(self, path: str | None, role: str, key: str) -> pl.DataFrame | None:
        if path is None:
            return None
        table = _read(path, self._ids)
        column = _column(table, str(self.columns[role]), role, path)
        if key in table.columns and column != key:
            table = table.drop(key)  # the mapping says which column is the key
        return table.with_columns(_identifier(table[column])).rename({column: key})

    @property
    def _ids(self) -> list[str]:
        return [str(self.columns["user"]), str(self.columns["item"])]


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"no such file: {path}")
    if file.suffix not in READERS:
        raise UserError(f"{path}: the ending must be one of {', '.join(sorted(READERS))}")
    return file


def _read(path: str, ids: list[str]) -> pl.DataFrame:
    file = _existing(path)
    if file.stat().st_size == 0:
        raise UserError(f"{path} is empty: give a file with a header and at least one row")
    try:
        if file.suffix == ".parquet":
            return pl.read_parquet(file)
        if file.suffix in {".jsonl", ".ndjson"}:
            return pl.read_ndjson(file)
        separator = "\t" if file.suffix == ".tsv" else ","
        names = pl.read_csv(file, separator=separator, n_rows=0).columns
        strings = {name: pl.String for name in ids if name in names}
        return pl.read_csv(file, separator=separator, infer_schema_length=None, schema_overrides=strings)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise UserError(f"{path} cannot be read as {file.suffix[1:]}: {reason[:300]}") from error


def _column(table: pl.DataFrame, name: str, role: str, path: str) -> str:
    if name not in table.columns:
        near = get_close_matches(name, table.columns, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"dataset.columns.{role}={name} is not in {path}; its columns are {', '.join(table.columns)}{hint}"
        )
    return name


def _identifier(values: pl.Series) -> pl.Series:
    """Whole numbers where every value reads back as it was written (``007`` does not), else strings."""
    if values.dtype != pl.String:
        return values
    numbers = values.cast(pl.Int64, strict=False)
    return numbers if (numbers.cast(pl.String) == values).fill_null(values.is_null()).all() else values


def _number(table: pl.DataFrame, column: str, path: str) -> pl.Series:
    number = table[column].cast(pl.Float64, strict=False)
    return _checked(number, table[column], "a number", path)


def _seconds(table: pl.DataFrame, column: str, path: str) -> pl.Series:
    raw = table[column]
    if raw.dtype.is_temporal():
        seconds = raw.cast(pl.Datetime("us")).dt.epoch("s")
    elif raw.dtype.is_numeric():
        seconds = raw.cast(pl.Float64).cast(pl.Int64, strict=False)
    else:
        seconds = raw.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
        if seconds.is_null().all():
            seconds = _dates(raw.cast(pl.String))
    return _checked(seconds, raw, "seconds since 1970 or an ISO date", path)


def _dates(texts: pl.Series) -> pl.Series:
    try:
        return texts.str.to_datetime(strict=False, time_unit="us").dt.epoch("s")
    except pl.exceptions.ComputeError:  # not one of them looks like a date
        return pl.Series([None] * len(texts), dtype=pl.Int64)


def _checked(parsed: pl.Series, raw: pl.Series, what: str, path: str) -> pl.Series:
    bad = (parsed.is_null() | (parsed.is_nan() if parsed.dtype.is_float() else False)).arg_true()
    if len(bad):
        row = int(bad[0])
        raise UserError(
            f"{path}: data row {row + 1} has {raw.name}={raw[row]!r}, which is not {what}; {len(bad)} such rows"
        )
    return parsed
