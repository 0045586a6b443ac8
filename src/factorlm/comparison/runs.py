"""Compare arms from their run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from factorlm.comparison.columns import lower_is_better
from factorlm.comparison.compare import compare_tables, over_seeds, pair_users
from factorlm.errors import UserError
from factorlm.runs.identity import protocol_differences, require_own_fingerprint, require_same_protocol
from factorlm.runs.record import read_record


def by_arm(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Run folders by their arm, in the order they come; each an arm of its own where all are of one."""
    grouped: dict[str, list[Path]] = {}
    for folder in folders:
        grouped.setdefault(_record(folder)["arm"], []).append(folder)
    if len(grouped) > 1:
        return grouped
    distinct = len({folder.name for folder in folders}) == len(folders)
    return {folder.name if distinct else str(folder): [folder] for folder in folders}


@dataclass(frozen=True)
class _Arms:
    """Records and tables of each arm, both by seed, and where the protocols differ."""

    records: dict[str, list[dict[str, Any]]]
    tables: dict[str, list[pl.DataFrame]]
    seeds: list[int]
    differences: list[str]


def _read(arms: Mapping[str, Sequence[Path]], force: bool) -> _Arms:
    records = {name: sorted(map(_record, folders), key=lambda record: record["seed"]) for name, folders in arms.items()}
    by_name = {f"{name} ({record['folder']})": record for name, own in records.items() for record in own}
    if not force:
        require_same_protocol(by_name)
    seeds = {name: [record["seed"] for record in own] for name, own in records.items()}
    first = next(iter(seeds.values()))
    if any(own != first or len(set(own)) < len(own) for own in seeds.values()):
        raise UserError(f"arms are paired seed by seed, so each needs the same seeds, once; they have {seeds}")
    tables = {name: [_per_user(record["folder"]) for record in own] for name, own in records.items()}
    return _Arms(records, tables, first, [str(difference) for difference in protocol_differences(by_name)])


def _record(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    if record is None or record["status"] != "done":
        raise UserError(f"{folder} holds no finished run: train it first")
    require_own_fingerprint(record, str(folder))
    return record | {"folder": folder}


def _per_user(folder: Path) -> pl.DataFrame:
    path = folder / "per_user.parquet"
    if not path.exists():
        raise UserError(f"{path} is missing: write it again with factorlm evaluate run.dir={folder}")
    return pl.read_parquet(path)


def compare_runs(
    arms: Mapping[str, Sequence[Path]],
    metric: str,
    resamples: int,
    margin: float | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Compare finished runs.

    Args:
        arms: run folders of each arm; the first arm is the baseline.
        metric, resamples, margin: as in `compare_tables`.
        force: compare runs of different protocols too, on the users they share.

    Returns:
        The data of `compare_tables` with ``fingerprint``, ``seeds``, ``not_comparable`` (how protocols differ, nothing
        if they do not) and, for each arm, all metrics of the records, ``cost``, ``runs`` and ``pareto``: whether no
        other arm is as good at lower cost, or better at the same.

    Raises:
        UserError: protocols or seeds differ, a record was edited, or a metric is missing.
    """
    read = _read(arms, force)
    comparison = compare_tables(read.tables, metric, resamples, margin, force)
    comparison |= {
        "fingerprint": next(iter(read.records.values()))[0]["fingerprint"],
        "seeds": read.seeds,
        "not_comparable": read.differences,
    }
    for name, own in read.records.items():
        arm = comparison["arms"][name]
        shared = [key for key in own[0]["metrics"] if all(key in record["metrics"] for record in own)]
        recorded = {key: over_seeds([record["metrics"][key] for record in own]) for key in shared}
        arm |= {"metrics": recorded | arm["metrics"], "cost": _cost(own)}
        arm["runs"] = [str(record["folder"]) for record in own]
    for arm in comparison["arms"].values():
        arm["pareto"] = not any(_dominates(other, arm, metric) for other in comparison["arms"].values())
    return comparison


def run_differences(folders: Sequence[Path], metric: str) -> tuple[str, str, npt.NDArray[np.float64]]:
    """Baseline, arm and their paired differences [S, U] of finished runs of two arms, the baseline first.

    Raises:
        UserError: there are not two arms with the same two seeds or more, or they cannot be compared.
    """
    arms = by_arm(folders)
    if len(arms) != 2 or len(folders) < 4:
        raise UserError(f"runs: two arms with two seeds or more are needed; there are {', '.join(arms)}")
    values_2SU = pair_users(_read(arms, force=False).tables, metric, force=False).values_AMSU[:, 0]
    baseline, arm = arms
    return baseline, arm, (values_2SU[1] - values_2SU[0])[:, ~np.isnan(values_2SU[0, 0])]


def _cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Cost of an arm: means over its runs; for memory the largest."""
    milliseconds = [record.get("ms_per_user") for record in records]
    return {
        "trainable_parameters": records[0]["parameters"]["trainable"],
        "train_seconds": float(np.mean([record["seconds"]["train"] for record in records])),
        "total_seconds": float(np.mean([record["seconds"]["total"] for record in records])),
        "peak_memory_mb": max(record["peak_memory_mb"] for record in records),
        "ms_per_user": None if None in milliseconds else float(np.mean([ms for ms in milliseconds if ms is not None])),
    }


def _dominates(one: Mapping[str, Any], two: Mapping[str, Any], metric: str) -> bool:
    """Whether an arm is not behind another in the primary metric and in training time, and ahead in one of them."""
    sign = -1 if lower_is_better(metric) else 1
    gain = sign * (one["metrics"][f"test/{metric}"]["mean"] - two["metrics"][f"test/{metric}"]["mean"])
    saved = two["cost"]["train_seconds"] - one["cost"]["train_seconds"]
    return bool(min(gain, saved) >= 0 and max(gain, saved) > 0)
