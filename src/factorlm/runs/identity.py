"""What identifies a run, and what makes two runs comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from factorlm.code import plugin_hash, source_hash
from factorlm.errors import UserError

# packages whose code determines a result; the others only launch, store, compare or show it
DETERMINING = (
    "assets.py",
    "data",
    "backbones",
    "heads",
    "baselines",
    "models",
    "objectives",
    "metrics",
    "training",
    "evaluation",
    "config/build.py",
    "config/model.py",
    "commands/train.py",
)


def digest(content: Any) -> str:
    """Short hash of plain JSON data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def code_version(plugins: Sequence[str]) -> str:
    """Hash of the source that determines results, that of plugins included."""
    return digest([source_hash(*DETERMINING), *map(plugin_hash, plugins)])


def protocol(
    *,
    data: str,
    split: str,
    rows: Mapping[str, int],
    candidates: str,
    exclusion: str,
    metrics: Sequence[str],
    selection: str,
) -> dict[str, Any]:
    """The parts of the protocol; runs are comparable if and only if all are equal."""
    return {
        "data": data,
        "split": split,
        "rows": dict(rows),
        "candidates": candidates,
        "exclusion": exclusion,
        "metrics": list(metrics),
        "selection": selection,
    }


def require_same_protocol(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to compare runs of different protocols.

    Args:
        records: record of a run by name; the first is the reference.

    Raises:
        UserError: names the runs, the differing part and both values.
    """
    names = list(records)
    for name in names[1:]:
        first, other = records[names[0]]["protocol"], records[name]["protocol"]
        for part in first:
            if first[part] != other.get(part):
                raise UserError(
                    f"{names[0]} and {name} cannot be compared: protocol part {part!r} is {first[part]} in the first "
                    f"and {other.get(part)} in the second; run both with the same dataset, split and metrics"
                )
