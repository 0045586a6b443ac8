"""Compare arms from their run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from factorlm.comparison.statistics import Floats, holm, paired_effects
from factorlm.errors import UserError
from factorlm.runs.identity import require_same_protocol
from factorlm.runs.record import read_record


def compare_runs(arms: Mapping[str, Sequence[Path]], metric: str, resamples: int) -> dict[str, Any]:
    """Pair every arm with the first, the baseline, user by user and seed by seed.

    Args:
        arms: finished run folders of each arm; the first arm is the baseline.
        metric: primary metric, such as ``ndcg@10``.
        resamples: of bootstrap and permutation test.

    Returns:
        Plain data: ``metric``, ``baseline``, ``fingerprint``, ``users``, ``seeds`` and, for each arm, ``metrics``
        (mean and standard deviation over seeds), ``effect`` against the baseline (None for itself) and ``cost``.

    Raises:
        UserError: protocols or seeds differ, or a metric is missing.
    """
    records = {(name, folder): _record(folder) for name, folders in arms.items() for folder in folders}
    require_same_protocol({f"{name} ({folder})": record for (name, folder), record in records.items()})
    arms = {name: sorted(folders, key=lambda folder: records[name, folder]["seed"]) for name, folders in arms.items()}
    seeds = {name: [records[name, folder]["seed"] for folder in folders] for name, folders in arms.items()}
    if any(own != next(iter(seeds.values())) or len(set(own)) < len(own) for own in seeds.values()):
        raise UserError(f"arms are paired seed by seed, so each needs the same seeds, once; they have {seeds}")
    values = {name: _per_user(folders, metric) for name, folders in arms.items()}
    baseline = next(iter(arms))
    if len(arms) < 2:
        raise UserError(f"there is only the arm {baseline}: comparing takes two")
    others = list(arms)[1:]
    differences = np.stack([values[name] - values[baseline] for name in others])
    effects = dict(zip(others, paired_effects(differences, resamples), strict=True))
    adjusted = dict(zip(effects, holm([effect.p_value for effect in effects.values()]), strict=True))
    first = records[baseline, arms[baseline][0]]
    return {
        "metric": metric,
        "baseline": baseline,
        "fingerprint": first["fingerprint"],
        "users": int(values[baseline].shape[1]),
        "seeds": [records[baseline, folder]["seed"] for folder in arms[baseline]],
        "resamples": resamples,
        "arms": {
            name: {
                "metrics": _over_seeds([records[name, folder]["metrics"] for folder in folders]),
                "effect": asdict(effects[name]) | {"p_holm": adjusted[name]} if name in effects else None,
                "cost": _cost([records[name, folder] for folder in folders]),
                "runs": [str(folder) for folder in folders],
            }
            for name, folders in arms.items()
        },
    }


def _record(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    if record is None or record["status"] != "done":
        raise UserError(f"{folder} holds no finished run: train it first")
    return record


def _per_user(folders: Sequence[Path], metric: str) -> Floats:
    """Values [S, U] of the users every table has, in the order of their ids."""
    tables = [pl.read_parquet(folder / "per_user.parquet") for folder in folders]
    for folder, table in zip(folders, tables, strict=True):
        if metric not in table.columns:
            raise UserError(f"metric={metric} is not in {folder}, which has {', '.join(table.columns[1:])}")
    columns = [table.sort("user_id").filter(pl.col(metric).is_not_nan())[metric].to_numpy() for table in tables]
    return np.stack(columns)


def _over_seeds(metrics: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    result: dict[str, dict[str, float | None]] = {}
    for name in metrics[0]:
        values = np.array([run[name] for run in metrics])
        result[name] = {
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        }
    return result


def _cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        "trainable_parameters": records[0]["parameters"]["trainable"],
        "train_seconds": float(np.mean([record["seconds"]["train"] for record in records])),
        "total_seconds": float(np.mean([record["seconds"]["total"] for record in records])),
        "peak_memory_mb": max(record["peak_memory_mb"] for record in records),
    }
