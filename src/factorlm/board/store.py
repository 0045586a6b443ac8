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
from factorlm.runs.index import read_runs
from factorlm.runs.record import read_record
from factorlm.runs.store import HISTORY

SHOWN = ("status", "study", "arm", "seed", "started", "metric", "test")
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
        self._runs: dict[str, dict[str, Any]] = {}
        self._stale_at = 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Every run in short, the newest first."""
        return [{"name": name, **{key: run[key] for key in SHOWN}} for name, run in reversed(self._read().items())]

    def curves(self, names: Sequence[str], key: str | None) -> dict[str, Any]:
        """The chart of a value by epoch, and the values that there are.

        Raises:
            UserError: a run is not in the store.
        """
        if len(names) > MOST_CURVES:
            raise UserError(f"{len(names)} runs are chosen: choose {MOST_CURVES} or fewer")
        chosen = [self._run(name) for name in names]
        histories = [_history(Path(run["folder"])) for run in chosen]
        several = len({run["study"] for run in chosen}) > 1
        labels = [f"{run['study']} {run['arm']}" if several else str(run["arm"]) for run in chosen]
        keys = sorted({key for history in histories for row in history for key in row} - {"epoch", "step"})
        usual = (f"valid/{run['metric']}" for run in chosen)
        shown = key if key in keys else next((name for name in usual if name in keys), "train/loss")
        named = [f"{label} seed {run['seed']}" for label, run in zip(labels, chosen, strict=True)]
        chart = curves(list(zip(labels, named, histories, strict=True)), shown)
        return {"keys": keys, "key": shown, "chart": chart}

    def compare(self, study: str, baseline: str, arm: str) -> dict[str, Any]:
        """Two arms of a study, paired by the users and seeds that both have, as sentence, tables and charts.

        Raises:
            UserError: they have no seed in common, or cannot be compared.
        """
        runs = [run for run in self._read().values() if (run["study"], run["status"]) == (study, "done")]
        seeds: dict[str, dict[int, list[Path]]] = {baseline: {}, arm: {}}
        for run in runs:
            if run["arm"] in seeds:
                seeds[run["arm"]].setdefault(run["seed"], []).append(Path(run["folder"]))
        common = sorted(set(seeds[baseline]) & set(seeds[arm]))
        if not common:
            raise UserError(f"{baseline} and {arm} have no finished runs with the same seed in {study}")
        arms = {name: [folder for seed in common for folder in own[seed]] for name, own in seeds.items()}
        metric = next(run["metric"] for run in runs if run["arm"] == baseline)
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

    def _run(self, name: str) -> dict[str, Any]:
        runs = self._read()
        if name not in runs:
            raise UserError(f"{name} is no run of this store")
        return runs[name]

    def _read(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            start = time.monotonic()
            if start >= self._stale_at:
                found, _ = read_runs(self._root)
                self._runs = {str(Path(run["folder"]).relative_to(self._root)): run for run in found}
                end = time.monotonic()
                self._stale_at = end + max(1.0, SHARE_OF_TIME * (end - start))
            return self._runs


def _history(folder: Path) -> list[dict[str, Any]]:
    """Values by epoch: of the record, or of a run in training, which writes a line after each epoch."""
    record = read_record(folder) or {}
    if record.get("history"):
        return list(record["history"])
    try:
        return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
    except FileNotFoundError:
        return []
