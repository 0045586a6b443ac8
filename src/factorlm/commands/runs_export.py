"""``factorlm runs export FILE``: a table with a row for each run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factorlm.commands.run_filters import OF_A_RUN, Run, select
from factorlm.config.options import leaves
from factorlm.errors import UserError

if TYPE_CHECKING:
    import polars as pl
    from omegaconf import DictConfig


def main(config: DictConfig, root: Path, words: Sequence[str]) -> None:
    """Write what every run has, its config under ``config.`` and its metrics."""
    path = Path(words[0]).expanduser() if words else Path()
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"runs export takes a file that ends in .parquet or .csv, then filters; it got {path}")
    if not path.parent.is_dir():
        raise UserError(f"runs export {path}: there is no folder {path.parent}")
    runs = select(root, words[1:], config.sort, ["config", "metrics"])
    table = _table(runs)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    if path.suffix == ".csv":
        table.write_csv(partial)
    else:
        table.write_parquet(partial)
    partial.replace(path)
    print(f"{len(runs)} runs, {table.width} columns: {path}")


def _table(runs: Sequence[Run]) -> pl.DataFrame:
    import polars as pl

    rows = [
        {key: run[key] for key in OF_A_RUN} | dict(leaves(run["config"], "config")) | run["metrics"] for run in runs
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame({name: _column([row.get(name) for row in rows]) for name in names or OF_A_RUN})


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: numbers together, and of other mixtures their JSON."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values] if float in kinds else values
    if len(kinds) == 1 and kinds <= {str, bool}:
        return values
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
