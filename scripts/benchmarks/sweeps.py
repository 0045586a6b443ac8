"""Kill a sweep at random moments and compare it with an undisturbed one; measure what a sweep costs beside its runs.

    .venv/bin/python scripts/benchmarks/sweeps.py     # FM on MovieLens-100K, 24 trials; a quarter of an hour

Writes sweeps.json beside this file. Bare runs are the same 24 configs, trained one after the other in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

TRIALS, KILLS = 24, 5
RUN = [
    "sweep=fm", "dataset=ml100k", "task=pointwise", "split=random", "fields=movielens", "trainer.max_epochs=6",
    "batch_size=512", "tracking=none",
]  # fmt: skip
SPACE = ["optimizer.lr=tag(log,interval(1e-3,3e-2))", "model.factor_l2=tag(log,interval(1e-3,1e-1))"]
TABLE = "adhoc/fm-sweep-*/sweep.json"


def command(root: Path, jobs: int) -> list[str]:
    sweeper = ["hydra/sweeper=optuna", f"hydra.sweeper.n_trials={TRIALS}", f"hydra.sweeper.n_jobs={jobs}"]
    return [sys.executable, "-m", "factorlm", "train", *RUN, *SPACE, *sweeper, f"run.root={root}"]


def sweep(root: Path, jobs: int) -> float:
    """Seconds that a whole sweep takes."""
    started = time.perf_counter()
    subprocess.run(command(root, jobs), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def killed_sweep(root: Path, seconds: float, draw: random.Random) -> list[int]:
    """Run a sweep, killed with all its processes at random moments; trials that had ended at each."""
    ended = []
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(root, 1), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0.05, 2 / KILLS) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        tables = list(root.glob(TABLE))
        states = [trial["state"] for trial in json.loads(tables[0].read_text())["trials"]] if tables else []
        ended.append(len(states) - states.count("running"))
    sweep(root, 1)
    return ended


def trials(root: Path) -> list[dict[str, Any]]:
    """What must be equal in two sweeps."""
    (table,) = root.glob(TABLE)
    rows = json.loads(table.read_text())["trials"]
    return [{key: row[key] for key in ("number", "state", "params", "values")} for row in rows]


def runs(root: Path) -> list[dict[str, Any]]:
    """Records of a sweep's runs."""
    return [json.loads(path.read_text()) for path in root.glob("adhoc/*/record.json")]


def bare(root: Path, points: list[dict[str, Any]]) -> float:
    """Seconds of the same runs, one after the other in this process."""
    from factorlm.commands.train import train
    from factorlm.config.compose import compose_config

    configs = [
        compose_config("train", [*RUN, *(f"{key}={value}" for key, value in point.items()), f"run.root={root}"])
        for point in points
    ]
    train(configs.pop(0), progress=False)  # imports and compiles what all need
    started = time.perf_counter()
    for config in configs:
        train(config, progress=False)
    return (time.perf_counter() - started) * len(points) / len(configs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        alone = sweep(root / "alone", 1)
        ended = killed_sweep(root / "killed", alone, random.Random(arguments.seed))
        one, other = trials(root / "alone"), trials(root / "killed")
        together = sweep(root / "together", 2)
        plain = bare(root / "bare", [row["params"] for row in trials(root / "together")])
        total = sum(record["seconds"]["total"] for record in runs(root / "together"))
        found = {
            "trials": len(one),
            "kills": KILLS,
            "ended_at_each_kill": ended,
            "same_trials": one == other,
            "runs": [len(runs(root / name)) for name in ("alone", "killed")],
            "seconds": {
                "n_jobs=1": round(alone, 1), "n_jobs=2": round(together, 1), "bare": round(plain, 1),
                "records, n_jobs=2": round(total, 1),
            },
            "overhead": {
                "over bare": round(2 * together / plain - 1, 3), "over records": round(2 * together / total - 1, 3),
            },
            "load": os.getloadavg()[2],
        }  # fmt: skip
    (Path(__file__).parent / "sweeps.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
