"""Compare arms from their run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from factorlm.comparison.columns import lower_is_better
from factorlm.comparison.compare import compare_tables, over_seeds, pair_users
from factorlm.errors import UserError
from factorlm.runs.identity import (
    NAMING_RUNS,
    digest,
    protocol_differences,
    require_own_fingerprint,
    require_same_protocol,
)
from factorlm.runs.record import read_record

# what of a config does not tell arms apart
NOT_OF_AN_ARM = (
    "seed",
    "arm",
    "study",
    "run",
    "cache",
    "tracking",
    "threads",
    "plugins",
    "init_from",
    "eval_batch_size",
)


def by_arm(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Run folders by their arm, in the order they come.

    Runs of one arm share their config but for the seed. Where runs of one name do not, each config is an arm, called by
    what differs; runs of one config alone are each an arm of their own.
    """
    grouped: dict[tuple[str, str], list[Path]] = {}
    configs: dict[tuple[str, str], dict[str, Any]] = {}
    for folder in folders:
        config = _config(folder)
        key = _record(folder)["arm"], digest(config)
        grouped.setdefault(key, []).append(folder)
        configs[key] = config
    if len(grouped) == 1:
        distinct = len({folder.name for folder in folders}) == len(folders)
        return {folder.name if distinct else str(folder): [folder] for folder in folders}
    names = [arm for arm, _ in grouped]
    return {
        key[0] if names.count(key[0]) == 1 else _difference(configs[key], configs): own for key, own in grouped.items()
    }


def _config(folder: Path) -> dict[str, Any]:
    """What of a run's config makes its arm."""
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text()) if path.exists() else {}
    for group, _, key in (name.partition(".") for name in NAMING_RUNS):
        if isinstance(content.get(group), dict):
            content[group].pop(key, None)
    return {key: value for key, value in content.items() if key not in NOT_OF_AN_ARM}


def _difference(config: Mapping[str, Any], all_configs: Mapping[Any, Mapping[str, Any]]) -> str:
    """The settings of a config that others do not share, in short."""
    others = [other for other in all_configs.values() if other != config]
    found = []
    for key, value in config.items():
        if all(other.get(key) == value for other in others):
            continue
        if isinstance(value, dict) and all(isinstance(other.get(key), dict) for other in others):
            own = {name: one for name, one in value.items() if any(other[key].get(name) != one for other in others)}
            if all(set(other[key]) == set(value) for other in others):
                found += [f"{key}.{name}={one}" for name, one in own.items()]
                continue
            value = ",".join(value)
        if isinstance(value, dict):
            value = str(value.get("_target_", "other")).rpartition(".")[2]
        found.append(f"{key}={'none' if value is None else value}")
    return " ".join(found)[:40]


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
    tables = {name: [_per_user(record) for record in own] for name, own in records.items()}
    return _Arms(records, tables, first, [str(difference) for difference in protocol_differences(by_name)])


def _record(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    if record is None or record.get("status") != "done":
        raise UserError(f"{folder} holds no finished run: train it first")
    require_own_fingerprint(record, str(folder))
    return record | {"folder": folder}


def _per_user(record: Mapping[str, Any]) -> pl.DataFrame:
    """The table of users, whose means must be the metrics of the record."""
    path = record["folder"] / "per_user.parquet"
    again = f"factorlm evaluate run.dir={record['folder']}"
    if not path.exists():
        raise UserError(f"{path} is missing: write it again with {again}")
    table = pl.read_parquet(path)
    for column in table.columns:
        if f"test/{column}" in record["metrics"]:
            recorded = record["metrics"][f"test/{column}"]
            mean = table.select(pl.col(column).cast(pl.Float64).fill_nan(None).mean()).item()
            if not np.isclose(_number(mean), _number(recorded), 0, 1e-9, equal_nan=True):
                raise UserError(
                    f"per_user.parquet of {record['folder']} was edited: the mean of {column} is {mean} and the record "
                    f"says {recorded}; remove the file and write it again with {again}"
                )
    return table


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


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
        if they do not) and, for each arm, all metrics of the records, ``cost``, ``test_evaluations`` (most often
        that a run's test part was evaluated), ``runs`` and ``pareto``: whether no other arm is as good at lower cost,
        or better at the same.

    Raises:
        UserError: protocols or seeds differ, a record or table was edited, or a metric is missing.
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
        values = {key: [record["metrics"][key] for record in own] for key in shared}
        recorded = {key: over_seeds(found) for key, found in values.items() if None not in found}
        arm |= {"metrics": recorded | arm["metrics"], "cost": _cost(own)}
        counted = [record["test_evaluations"] for record in own if "test_evaluations" in record]
        arm["test_evaluations"] = max(counted) if len(counted) == len(own) else None
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


def user_differences(
    arms: Mapping[str, Sequence[Path]], metric: str, force: bool = False
) -> dict[str, npt.NDArray[np.float64]]:
    """Differences of every other arm to the first, the baseline, for each user [U], means over seeds.

    Args and errors are those of `compare_runs`.
    """
    values_ASU = pair_users(_read(arms, force).tables, metric, force).values_AMSU[:, 0]
    present_U = ~np.isnan(values_ASU[0, 0])
    differences_AU = (values_ASU[1:] - values_ASU[0])[..., present_U].mean(1)
    return dict(zip(list(arms)[1:], differences_AU, strict=True))


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
