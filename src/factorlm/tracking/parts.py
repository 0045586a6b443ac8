"""The W&B logs in a run folder: one for each part of a run that was interrupted, or whose server vanished."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any


def logs(folder: Path) -> list[Path]:
    """The W&B logs of a run folder, one for each part of the run, oldest first."""
    return sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=_begun)


def _begun(log: Path) -> tuple[str, bool]:
    """When a part of a run began; of two in the same second the offline one is the later."""
    kind, _, begun = log.parent.name.partition("run-")
    return begun, kind == "offline-"


def is_synced(log: Path) -> bool:
    """Whether a log was uploaded, by a mark that W&B knows."""
    return _mark(log).exists()


def mark(log: Path) -> None:
    """Mark a log as uploaded."""
    _mark(log).touch()


def is_moved(folder: Path) -> bool:
    """Whether a run folder is another one than when its run began."""
    path = folder / "wandb" / "run.json"
    return path.exists() and bool(json.loads(path.read_text())["folder"] != str(folder.absolute()))


def records(log: Path) -> list[dict[str, Any]]:
    """What is in a log, which may have been cut short."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", log.name]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=log.parent).stdout
    return [json.loads(line) for line in printed.splitlines()]


def run_id(folder: Path) -> str:
    """The W&B id of a run: drawn once, so that all its parts are one W&B run."""
    path = folder / "wandb" / "run.json"
    if not path.exists():
        path.write_text(json.dumps({"id": secrets.token_hex(8), "folder": str(folder.absolute())}))
    return str(json.loads(path.read_text())["id"])


def epochs(log: Path) -> list[float]:
    """Epochs whose rows are in a log."""
    items = [record.get("history", {}).get("item", {}) for record in records(log)]
    return [item["epoch"] for item in items if "epoch" in item]


def _mark(log: Path) -> Path:
    return log.with_name(f"{log.name}.synced")
