"""Files of a user: tables by their ending, and columns as ids, numbers and times, with one clear line for a mistake."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import polars as pl

from factorlm.assets import sha256_of
from factorlm.errors import UserError

ENDINGS = (".csv", ".jsonl", ".ndjson", ".parquet", ".tsv")


def existing_file(path: str) -> Path:
    """The file at ``path``.

    Raises:
        UserError: there is none.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    if not file.is_file():
        raise UserError(f"no such file: {path}")
    return file


def existing(path: str, *others: str) -> Path:
    """The file at ``path``, whose ending must be one that `read_table` knows or one of ``others``.

    Raises:
        UserError: there is none, or the ending is another.
    """
    file = existing_file(path)
    endings = (*ENDINGS, *others)
    if file.suffix not in endings:
        raise UserError(f"{path}: the ending must be one of {', '.join(endings)}")
    return file


def checksum(path: str) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    return sha256_of(existing(path, ".json"))


def read_table(path: str, ids: list[str]) -> pl.DataFrame:
    """Read a table; columns named in ``ids`` keep the spelling of the file where it is text.

    Raises:
        UserError: the file is missing, empty or not what its ending says.
    """
    file = existing(path)
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


def column(table: pl.DataFrame, name: str, key: str, path: str) -> str:
    """Return ``name`` if it is a column of the table.

    Args:
        table: as read from ``path``.
        name: of the column.
        key: of the config that names it, such as ``dataset.columns.user``.
        path: for the message.

    Raises:
        UserError: it is not; the message lists the columns and the nearest.
    """
    if name not in table.columns:
        near = get_close_matches(name, table.columns, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{key}={name} is not in {path}; its columns are {', '.join(table.columns)}{hint}")
    return name


def identifier(values: pl.Series) -> pl.Series:
    """Whole numbers where every value reads back as it was written (``007`` does not), else strings."""
    if values.dtype != pl.String:
        return values
    numbers = values.cast(pl.Int64, strict=False)
    return numbers if (numbers.cast(pl.String) == values).fill_null(values.is_null()).all() else values


def number(table: pl.DataFrame, name: str, path: str) -> pl.Series:
    """A column as float64.

    Raises:
        UserError: a value is missing or no number; the message names the first row.
    """
    return _checked(table[name].cast(pl.Float64, strict=False), table[name], "a number", path)


def seconds(table: pl.DataFrame, name: str, path: str) -> pl.Series:
    """A column of times, dates or ISO texts as whole seconds since 1970.

    Raises:
        UserError: a value is missing or no time; the message names the first row.
    """
    raw = table[name]
    if raw.dtype.is_temporal():
        parsed = raw.cast(pl.Datetime("us")).dt.epoch("s")
    elif raw.dtype.is_numeric():
        parsed = raw.cast(pl.Float64).cast(pl.Int64, strict=False)
    else:
        parsed = raw.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
        if parsed.is_null().all():
            parsed = _dates(raw.cast(pl.String))
    return _checked(parsed, raw, "seconds since 1970 or an ISO date", path)


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
