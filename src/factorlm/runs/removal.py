"""Remove runs from the store, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from factorlm.runs.record import FILE, read_record, write_json
from factorlm.runs.store import LOCK, OURS


def remove(folder: Path) -> list[str]:
    """Remove a run's files and, if nothing else is in it, its folder; names of what is left.

    A removal that is interrupted leaves a run of status ``deleted``, which can be removed or trained again.

    Raises:
        BlockingIOError: a process holds the run.
    """
    try:
        with FileLock(folder / LOCK, timeout=0):
            write_json(folder / FILE, (read_record(folder) or {}) | {"status": "deleted"})
            for partial in folder.glob("*.tmp"):
                partial.unlink()
            for name in ("log.txt", *OURS):  # the record is the last
                path = folder / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            left = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
            if not left:
                (folder / LOCK).unlink(missing_ok=True)
                folder.rmdir()
    except Timeout as error:
        raise BlockingIOError(f"{folder} is held by a process") from error
    return left
