"""``factorlm runs diff A B``: how the configs of two runs, their code, protocol and versions differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factorlm.commands.run_filters import find_run
from factorlm.config.options import leaves
from factorlm.errors import UserError
from factorlm.runs.index import read_config, read_runs
from factorlm.runs.record import read_record

if TYPE_CHECKING:
    from omegaconf import DictConfig

OF_A_RECORD = ("code", "protocol", "versions", "hardware")
NEVER = ("run", "cache")  # where a run lives


def main(config: DictConfig, root: Path, words: Sequence[str]) -> None:
    """Print every key that differs with both values, then the test metrics."""
    if len(words) != 2:
        raise UserError(f"runs diff takes two runs, as in factorlm runs diff A B; it got {len(words)}")
    runs, _ = read_runs(root)
    one, two = (_described(Path(find_run(runs, word, root)["folder"])) for word in words)
    differing = {
        key: [one.get(key), two.get(key)] for key in dict.fromkeys([*one, *two]) if one.get(key) != two.get(key)
    }
    if config.json:
        print(json.dumps(differing))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("key", *(Path(word).name for word in words)):
        table.add_column(name, overflow="fold")
    for key, values in differing.items():
        table.add_row(key, *("" if value is None else str(value) for value in values))
    Console().print(table if differing else "no difference")


def _described(folder: Path) -> dict[str, Any]:
    """What made a run and what came of it, flat."""
    record = read_record(folder) or {}
    config = {key: value for key, value in read_config(folder).items() if key not in NEVER}
    made = {key: record.get(key) for key in OF_A_RECORD}
    metrics = record.get("metrics") or {}
    return dict(leaves(config | made)) | {key: value for key, value in metrics.items() if key.startswith("test/")}
