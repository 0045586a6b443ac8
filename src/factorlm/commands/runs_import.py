"""``factorlm runs import FOLDER ...``: take over finished runs of somebody else's store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.commands.progress import track
from factorlm.errors import UserError
from factorlm.runs.importing import check_run, import_run
from factorlm.runs.store import run_folders

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig, root: Path, words: Sequence[str]) -> None:
    """Check every run of the folders, then copy all of them, each to its study; on a mistake none is copied."""
    if not words:
        raise UserError("runs import takes folders: of one run, or of many at any depth")
    found = {}
    for word in words:
        folders = list(run_folders(Path(word).expanduser()))
        if not folders:
            raise UserError(f"{word} holds no run: name a folder with a record.json, or one above such folders")
        for folder in folders:
            record = check_run(folder)
            target = root / record["study"] / folder.resolve().name
            if target.exists() or target in found:
                raise UserError(f"{target} exists: remove it first, or import into another run.root")
            found[target] = (folder, record)
    for target, (folder, record) in track(list(found.items()), "importing"):
        import_run(folder, record, target)
    for target in found:
        print(target)
