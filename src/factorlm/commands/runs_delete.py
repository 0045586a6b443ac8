"""``factorlm runs delete FILTER ...``: show, ask, remove."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.commands.progress import track
from factorlm.commands.run_filters import select
from factorlm.commands.runs import print_runs
from factorlm.errors import UserError
from factorlm.runs.removal import remove

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig, root: Path, words: Sequence[str]) -> None:
    """Remove the runs that are named or pass every filter, but for those that are running."""
    if not words:
        raise UserError("runs delete takes filters or runs, as in factorlm runs delete status=failed")
    runs = select(root, words, config.sort)
    print_runs(runs, root, list(words), config.sort)
    if not runs:
        return
    running = [run for run in runs if run["status"] == "running"]
    if running:
        raise UserError(f"{running[0]['folder']} is running: stop it first, or add 'status!=running'")
    if not config.yes:
        if not sys.stdin.isatty():
            raise UserError(f"runs delete asks before it removes {_count(len(runs))}, and nobody is there: add --yes")
        if input(f"remove {_count(len(runs))} for good? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
    removed = 0
    for run in track(runs, "removing"):
        folder = Path(run["folder"])
        try:
            left = remove(folder)
        except FileNotFoundError:
            continue  # another process was faster
        except BlockingIOError:
            print(f"kept {folder}: a process holds it")
            continue
        removed += 1
        if left:
            print(f"kept {folder} with {', '.join(left[:3])}, which is no file of a run")
        with suppress(OSError):
            if folder.parent != root:
                folder.parent.rmdir()  # a study whose last run is gone
    print(f"removed {_count(removed)}")


def _count(runs: int) -> str:
    return f"{runs} run{'s' * (runs != 1)}"
