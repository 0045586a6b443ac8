"""``factorlm sync``: upload W&B runs that were kept offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import UserError
from factorlm.runs.store import claim
from factorlm.tracking.parts import is_moved
from factorlm.tracking.sync import require_server, upload, waiting

if TYPE_CHECKING:
    from omegaconf import DictConfig

MOVED = "; the folder was moved since the run, which leaves its tables out"


def main(config: DictConfig) -> None:
    """Upload every run under a folder that is not uploaded yet, with a line for each."""
    root = Path(config.folder or config.run.root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"folder={root} is no folder: name a run folder, or one that holds runs")
    folders = waiting(root)
    if not folders:
        print(f"nothing to upload under {root}")
        return
    require_server(folders[0])
    failed = 0
    for number, folder in enumerate(folders, 1):
        try:
            with claim(folder, wait=False):
                reason = upload(folder, config.timeout)
        except UserError as error:
            reason = str(error)
        failed += reason is not None
        done = f"uploaded{MOVED if is_moved(folder) else ''}"
        print(f"[{number}/{len(folders)}] {folder}: {f'not uploaded: {reason}' if reason else done}", flush=True)
    if failed:
        raise UserError(f"{failed} of {len(folders)} runs were not uploaded; nothing is lost, call again")
