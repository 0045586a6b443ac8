"""``factorlm runs tail A``: follow a run that trains."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.commands.run_filters import select
from factorlm.errors import UserError
from factorlm.runs.record import read_record
from factorlm.runs.store import HISTORY, status

if TYPE_CHECKING:
    from omegaconf import DictConfig

SECONDS = 0.5  # between two looks


def main(config: DictConfig, root: Path, words: Sequence[str]) -> None:
    """Print what the log and the history hold, and what is added, until the run ends; then how it ended."""
    if len(words) != 1:
        raise UserError(f"runs tail takes one run, as in factorlm runs tail A; it got {len(words)}")
    (run,) = select(root, words)
    folder = Path(run["folder"])
    shown: dict[str, int] = {}
    while True:
        record = read_record(folder) or {}
        metric = str((record.get("protocol") or {}).get("selection", "")).removeprefix("max ")
        now = status(folder, record)  # before the files are read, so that its last lines are shown
        for name in ("log.txt", HISTORY):
            lines = _lines(folder / name)
            first = shown.get(name, 0) if len(lines) >= shown.get(name, 0) else 0  # fewer: the run began anew
            for line in lines[first:]:
                print(line if name != HISTORY or config.json else _epoch(line, metric), flush=True)
            shown[name] = len(lines)
        if now != "running":
            break
        time.sleep(SECONDS)
    if not config.json:
        print(" ".join([now, *(str(record[key]) for key in ("error",) if record.get(key))]))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


def _epoch(line: str, metric: str) -> str:
    """An epoch's metrics in short: loss, and the metric that selects."""
    try:
        values = json.loads(line)
        named = {name: values.get(name) for name in ("train/loss", metric)}
        known = [f"{name} {value:.4f}" for name, value in named.items() if value is not None]
        return "  ".join([f"epoch {values['epoch']}", f"step {values['step']}", *known])
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
