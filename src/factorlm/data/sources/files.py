"""A user's own files: parquet, csv, tsv or jsonl with a column mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from factorlm.data.reading import checksum, column, identifier, number, read_table, seconds
from factorlm.data.tables import Frames, Negatives, canonical
from factorlm.errors import UserError

Duplicates = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Files:
    """Interactions, and optionally items and users, from files of your own.

    Args:
        interactions: path of the interactions, or several; ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl``. A row that
            is in several files counts once.
        items: path of the items table, or None.
        users: path of the users table, or None.
        columns: names in the files of ``user``, ``item``, ``timestamp`` (seconds, or ISO dates) and ``value`` (None:
            every row is a positive interaction). The users and items tables use the same names for their key.
        min_value: interactions with a smaller value are negatives; None: there are none, or values are 0 and 1.
        negatives: ``drop`` them, or ``keep`` them as rows of label 0.
        duplicates: ``refuse`` rows that are equal in user, item and time, or ``drop`` all but the first of them.
        text: template of the item text over the columns of the items table, such as ``"{name}: {blurb}"``.
    """

    interactions: str | Sequence[str]
    items: str | None
    users: str | None
    columns: Mapping[str, str | None]
    min_value: float | None
    negatives: Negatives
    duplicates: Duplicates
    text: str | None

    def __post_init__(self) -> None:
        if self.duplicates not in get_args(Duplicates):
            raise UserError(
                f"dataset.duplicates={self.duplicates!r}: it must be one of {', '.join(get_args(Duplicates))}"
            )

    def identity(self) -> object:
        """The checksums of the files and the mapping."""
        paths = [*self._paths, self.items, self.users]
        sums = [path and checksum(path) for path in paths]
        return ["files", sums, dict(self.columns), self.min_value, self.negatives, self.duplicates, self.text]

    def load(self, cache_dir: Path) -> Frames:
        """Read and check the files."""
        for role in ("user", "item", "timestamp"):
            if not self.columns.get(role):
                raise UserError(f"dataset.columns.{role} has no value: name the column of {self._paths[0]}")
        tables = [self._read(path) for path in self._paths]
        several = len(tables) > 1
        interactions = pl.concat(tables, how="vertical_relaxed").unique(maintain_order=True) if several else tables[0]
        if self.duplicates == "drop":
            interactions = interactions.unique(["user_id", "item_id", "timestamp"], keep="first", maintain_order=True)
        return canonical(
            interactions,
            self._keyed(self.users, "user", "user_id"),
            self._keyed(self.items, "item", "item_id"),
            min_value=self.min_value,
            negatives=self.negatives,
            text=self.text,
            source=", ".join(self._paths),
        )

    def _read(self, path: str) -> pl.DataFrame:
        raw = read_table(path, self._ids)
        names = {
            role: column(raw, name, f"dataset.columns.{role}", path) for role, name in self.columns.items() if name
        }
        value = {"value": number(raw, names["value"], path)} if "value" in names else {}
        return raw.select(
            user_id=identifier(raw[names["user"]]),
            item_id=identifier(raw[names["item"]]),
            timestamp=seconds(raw, names["timestamp"], path),
            **value,
        )

    def _keyed(self, path: str | None, role: str, key: str) -> pl.DataFrame | None:
        if path is None:
            return None
        table = read_table(path, self._ids)
        name = column(table, str(self.columns[role]), f"dataset.columns.{role}", path)
        if key in table.columns and name != key:
            table = table.drop(key)  # the mapping says which column is the key
        return table.with_columns(identifier(table[name])).rename({name: key})

    @property
    def _paths(self) -> list[str]:
        return [self.interactions] if isinstance(self.interactions, str) else list(self.interactions)

    @property
    def _ids(self) -> list[str]:
        return [str(self.columns["user"]), str(self.columns["item"])]
