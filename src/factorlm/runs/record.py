"""The record of a run: JSON, written atomically, ``done`` last of all."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCHEMA = 1
FILE = "record.json"
CONFIG = "config.yaml"
PACKAGES = (
    "factorlm",
    "torch",
    "pytorch-lightning",
    "transformers",
    "peft",
    "datasets",
    "polars",
    "numpy",
    "scipy",
    "numba",
    "implicit",
    "hydra-core",
    "wandb",
)


class Record:
    """The record of one run, kept in its folder.

    Args:
        folder: the run folder.
        content: what is known at the start; status is ``running`` until `finish`.
        before: the record of the interrupted run that goes on, if one does.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
        self._path = folder / FILE
        self.content: dict[str, Any] = {"schema": SCHEMA, "status": "running", **content}
        self.content |= {"started": _now(), "command": _command(), "versions": versions(), "hardware": _hardware()}
        if before is not None:
            self.content |= {"started": before["started"], "interruptions": before.get("interruptions", 0) + 1}
        self.content["git"] = git_state()
        self.write()

    def update(self, **values: Any) -> None:
        """Add values and write them."""
        self.content |= values
        self.write()

    def finish(self, status: str, **values: Any) -> None:
        """Add the last values and the status ``done``, ``failed`` or ``cancelled``."""
        self.update(**{"ended": _now(), "peak_memory_mb": peak_memory_mb(), **values, "status": status})

    def write(self) -> None:
        """Replace the file atomically."""
        write_json(self._path, self.content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run folder, or None where there is none that can be read."""
    try:
        content = json.loads((folder / FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def git_state() -> dict[str, Any]:
    """Commit of the source and whether files differ from it; empty outside a checkout."""
    root = Path(__file__).parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _command() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter to a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _hardware() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return {"cpu": name, "cores": os.cpu_count(), "system": platform.platform(terse=True)}


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak // (1024 * 1024 if sys.platform == "darwin" else 1024))
