"""What the mirror of a training run is told at its start and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from factorlm.assets import sha256_of
from factorlm.config.build import make
from factorlm.runs.record import read_record
from factorlm.tracking.base import Mirror, Run

RESULTS = ("per_user.parquet", "topk.parquet", "rows.parquet")


def start_mirror(config: DictConfig, folder: Path) -> Mirror:
    """Start the mirror of the run in a folder, whose record has begun.

    Raises:
        UserError: a setting of the tracker is wrong.
    """
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    record = read_record(folder) or {}
    known = {name: record.get(name) for name in ("key", "code", "git", "versions")}
    run = Run(
        folder,
        name=f"{config.arm}-seed{config.seed}",
        group=str(config.study).partition("/")[0],
        job_type=config.arm,
        tags=[config[group]["_target_"].rpartition(".")[2] for group in ("dataset", "split", "head")],
        config={**{str(key): value for key, value in content.items()}, **known},
    )
    mirror: Mirror = make(config.tracking).start(run)
    return mirror


def mirror_results(mirror: Mirror, folder: Path, summary: Mapping[str, Any], made_from: Mapping[str, Any]) -> None:
    """Mirror the results of a run and its files, which name by path and hash what they come from.

    Args:
        mirror: of the run.
        folder: of the run.
        summary: final values.
        made_from: hashes of the data and the split.
    """
    mirror.summarize(summary)
    results = [folder / name for name in RESULTS if (folder / name).exists()]
    hashed = [*results, *sorted((folder / "checkpoint").glob("*.safetensors"))]
    lineage = {str(path.relative_to(folder)): sha256_of(path) for path in hashed}
    mirror.files("results", results, {**made_from, "folder": str(folder.absolute()), "sha256": lineage})
