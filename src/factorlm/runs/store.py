"""The store of runs: folders under one root."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

from filelock import FileLock, Timeout

from factorlm.errors import UserError
from factorlm.runs.record import CONFIG, FILE, read_record

LOCK = ".lock"
HISTORY = "history.jsonl"  # the metrics of each epoch
STATE = "state.pt"  # in checkpoint: of an interrupted training
OURS = (
    CONFIG, HISTORY, "per_user.parquet", "topk.parquet", "rows.parquet", "checkpoint", "diverged.json", "wandb",
    "metrics.csv", "summary.csv",
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


def status(folder: Path, record: Mapping[str, Any]) -> str:
    """Status of a run; one that says running but is held by no process was killed."""
    if record.get("status") != "running":
        return str(record.get("status"))
    if _held(folder):
        return "running"
    now = (read_record(folder) or record).get("status")  # it may have ended since it was read
    return "killed" if now == "running" else str(now)


def _held(folder: Path) -> bool:
    """Whether a process holds a run folder; the shared lock of who asks is one that `claim` waits for."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def run_folders(root: Path) -> Iterator[Path]:
    """Folders below ``root``, or itself, that hold a record; links and hidden folders are not followed."""
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            if S_ISREG(os.stat(f"{folder}/{FILE}").st_mode):
                yield Path(folder)
                continue
        except OSError:
            pass
        with suppress(OSError), os.scandir(folder) as entries:
            waiting += [one.path for one in entries if one.name[0] != "." and one.is_dir(follow_symlinks=False)]


def find_runs(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every run folder under ``root`` with its whole record, oldest first."""
    found = [(folder, read_record(folder)) for folder in run_folders(root)]
    runs = [(folder, record) for folder, record in found if record is not None]
    return sorted(runs, key=lambda run: (str(run[1].get("started", "")), str(run[0])))
