"""``factorlm runs``: what is in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factorlm.runs.store import find_runs, status

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig) -> None:
    """Print a table of runs, or one JSON document."""
    root = Path(config.run.dir or config.run.root).expanduser()
    runs = [_row(folder, record) for folder, record in find_runs(root)]
    if config.json:
        print(json.dumps(runs))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("status", "valid", "test", "seconds", f"folder in {root} (valid, test: ndcg@10)"):
        numeric = name in ("valid", "test", "seconds")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for run in runs:
        metrics = run["metrics"]
        numbers = [f"{metrics[name]:.4f}" if name in metrics else "" for name in ("valid/ndcg@10", "test/ndcg@10")]
        seconds = f"{run['seconds']:.0f}" if run["seconds"] else ""
        table.add_row(run["status"], *numbers, seconds, str(Path(run["folder"]).relative_to(root)))
    Console().print(table if runs else f"no runs under {root}")


def _row(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: record.get(key) for key in ("study", "arm", "seed", "started", "fingerprint")}
    metrics, seconds = record.get("metrics", {}), record.get("seconds", {}).get("total")
    return {
        "folder": str(folder),
        **kept,
        "status": status(folder, record),
        "metrics": metrics,
        "seconds": seconds,
    }
