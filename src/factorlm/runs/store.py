"""The store of runs: folders under one root, read without any index."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from factorlm.errors import UserError
from factorlm.runs.record import FILE, read_record

LOCK = ".lock"
HISTORY = "history.jsonl"  # the metrics of each epoch
STATE = "state.pt"  # in checkpoint: of an interrupted training
OURS = (
    "config.yaml", HISTORY, "per_user.parquet", "topk.parquet", "rows.parquet", "checkpoint", "diverged.json", "wandb",
    FILE,  # last: without it, the others would pass for foreign files
)  # fmt: skip


@contextmanager
def claim(folder: Path, wait: bool) -> Iterator[None]:
    """Hold a run folder for this process.

    Args:
        folder: of the run.
        wait: until another process lets go of it.

    Raises:
        UserError: another process holds it, and we do not wait.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.dir={folder} cannot be made: {error.strerror}; name a folder you can write to") from error
    try:
        with FileLock(folder / LOCK, timeout=-1 if wait else 0.5):
            yield
    except Timeout as error:
        raise UserError(f"run.dir={folder} is being trained by another process; wait for it or name another") from error


def clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove what an unfinished run left, but for the names to keep.

    Raises:
        UserError: the folder has no record and other files: it is not a run's.
    """
    for partial in folder.glob("*.tmp"):
        partial.unlink()
    if not (folder / FILE).exists():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, "log.txt"))
        if foreign:
            raise UserError(
                f"run.dir={folder} holds files that are no run ({', '.join(foreign[:3])}): name an empty folder"
            )
    for name in [name for name in OURS if name not in keep]:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def status(folder: Path, record: dict[str, Any]) -> str:
    """Status of a run; one that says running but is held by no process was killed."""
    if record.get("status") != "running":
        return str(record.get("status"))
    try:
        with FileLock(folder / LOCK, timeout=0):
            now = (read_record(folder) or record).get("status")  # it may have ended since it was read
            return "killed" if now == "running" else str(now)
    except Timeout:
        return "running"


def find_runs(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every run folder under ``root`` with its record, oldest first."""
    found = [(path.parent, read_record(path.parent)) for path in root.glob(f"**/{FILE}")]
    runs = [(folder, record) for folder, record in found if record is not None]
    return sorted(runs, key=lambda run: (run[1].get("started", ""), str(run[0])))
