"""What the board reads of a store: rows of runs, their learning curves, and two arms compared."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factorlm.comparison.runs import compare_runs, user_differences
from factorlm.errors import UserError
from factorlm.reporting.charts import curves, forest, over_users
from factorlm.reporting.tables import effects, quality
from factorlm.reporting.verdict import verdict, warnings
from factorlm.runs.store import HISTORY, find_runs, status

Runs = dict[str, tuple[Path, dict[str, Any]]]
RESAMPLES = 1000  # a tenth of a report's, for an answer at once
SHARE_OF_TIME = 5  # a store is read again after so many times what reading took
MOST_CURVES = 50


class Board:
    """A store of runs, read again when it was read a while ago; it may be asked by several threads.

    Args:
        root: of the store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._runs: Runs = {}
        self._stale_at = 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Every run in short, the newest first."""
        return [_row(name, folder, record) for name, (folder, record) in reversed(self._read().items())]

    def curves(self, names: Sequence[str], key: str | None) -> dict[str, Any]:
        """The chart of a value by epoch, and the values that there are.

        Raises:
            UserError: a run is not in the store.
        """
        if len(names) > MOST_CURVES:
            raise UserError(f"{len(names)} runs are chosen: choose {MOST_CURVES} or fewer")
        chosen = [self._run(name) for name in names]
        histories = [_history(folder, record) for folder, record in chosen]
        studies = {record.get("study") for _, record in chosen}
        labels = [_label(record, len(studies) > 1) for _, record in chosen]
        keys = sorted({key for history in histories for row in history for key in row} - {"epoch", "step"})
        usual = (f"valid/{_metric(record)}" for _, record in chosen)
        shown = key if key in keys else next((name for name in usual if name in keys), "train/loss")
        named = [f"{label} seed {record.get('seed')}" for label, (_, record) in zip(labels, chosen, strict=True)]
        chart = curves(list(zip(labels, named, histories, strict=True)), shown)
        return {"keys": keys, "key": shown, "chart": chart}

    def compare(self, study: str, baseline: str, arm: str) -> dict[str, Any]:
        """Two arms of a study, paired by the users and seeds that both have, as sentence, tables and charts.

        Raises:
            UserError: they have no seed in common, or cannot be compared.
        """
        seeds: dict[str, dict[int, list[Path]]] = {baseline: {}, arm: {}}
        records = {}
        for folder, record in self._read().values():
            if (record.get("study"), record.get("status")) == (study, "done") and record.get("arm") in seeds:
                seeds[record["arm"]].setdefault(record["seed"], []).append(folder)
                records[record["arm"]] = record
        common = sorted(set(seeds[baseline]) & set(seeds[arm]))
        if not common:
            raise UserError(f"{baseline} and {arm} have no finished runs with the same seed in {study}")
        arms = {name: [run for seed in common for run in own[seed]] for name, own in seeds.items()}
        metric = _metric(records[baseline])
        comparison = compare_runs(arms, metric, RESAMPLES)
        charts = [forest(comparison)]
        if comparison["arms"][arm]["effect"]["wins"] is not None:
            charts.append(over_users(comparison, user_differences(arms, metric)))
        return {
            "sentences": verdict(comparison),
            "warnings": warnings(comparison),
            "tables": [quality(comparison, written=True), effects(comparison)],
            "charts": charts,
        }

    def _run(self, name: str) -> tuple[Path, dict[str, Any]]:
        runs = self._read()
        if name not in runs:
            raise UserError(f"{name} is no run of this store")
        return runs[name]

    def _read(self) -> Runs:
        with self._lock:
            start = time.monotonic()
            if start >= self._stale_at:
                found = find_runs(self._root)
                self._runs = {str(folder.relative_to(self._root)): (folder, record) for folder, record in found}
                end = time.monotonic()
                self._stale_at = end + max(1.0, SHARE_OF_TIME * (end - start))
            return self._runs


def _row(name: str, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    metric = _metric(record)
    return {
        "name": name,
        "status": status(folder, record),
        **{key: record.get(key) for key in ("study", "arm", "seed", "started")},
        "metric": metric,
        "value": (record.get("metrics") or {}).get(f"test/{metric}"),
    }


def _metric(record: dict[str, Any]) -> str:
    """The metric that selects a run's weights, which is the one to look at."""
    selection = str((record.get("protocol") or {}).get("selection", "max valid/ndcg@10"))
    return selection.rpartition("valid/")[2]


def _label(record: dict[str, Any], with_study: bool) -> str:
    return f"{record.get('study')} {record.get('arm')}" if with_study else str(record.get("arm"))


def _history(folder: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Values by epoch: of the record, or of a run in training, which writes a line after each epoch."""
    if record.get("history"):
        return list(record["history"])
    try:
        return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
    except FileNotFoundError:
        return []
