"""Metrics as csv files in the run folder, for spreadsheets and other languages."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factorlm.assets import write_atomically
from factorlm.tracking.base import Row, Run


@dataclass(frozen=True)
class Csv:
    """Writes ``metrics.csv``, a row for each epoch, and ``summary.csv``."""

    def start(self, run: Run) -> CsvMirror:
        """Start the files of a run."""
        return CsvMirror(run.folder)


class CsvMirror:
    """The csv files of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log(self, history: Sequence[Row]) -> None:
        """Replace ``metrics.csv``."""
        columns = list(dict.fromkeys(name for row in history for name in row))
        self.table("metrics", columns, [[row.get(name) for name in columns] for row in history])

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Write ``summary.csv``: a row for each number."""
        self.table("summary", ["name", "value"], list(_flat(values)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Write ``NAME.csv``."""
        path = self._folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        write_atomically(path, text.getvalue().encode())

    def files(self, name: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Do nothing: they are in the folder."""

    def finish(self, exit_code: int) -> None:
        """Do nothing: all is written."""


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[list[Any]]:
    """Numbers with their names, those of nested mappings joined by dots."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            rows.append([f"{prefix}{name}", value])
    return rows
