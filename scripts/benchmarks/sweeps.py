"""Kill a sweep at random moments and compare it with an undisturbed one; measure what a sweep costs beside its runs.

    .venv/bin/python scripts/benchmarks/sweeps.py kills    # FM on labelled rows of MovieLens-100K: 24 trials, 5 kills
    .venv/bin/python scripts/benchmarks/sweeps.py cost     # FM that ranks all items of the same: 24 trials, 2 at once

Writes its part of sweeps.json beside this file. ``cost`` also trains the same configs one after the other in this
process, which has imported and compiled everything: the bare runs. Overhead in wall time is twice the sweep's over
theirs, or over what the records of its own runs say; the latter two share the load of a machine that others use.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

TRIALS, KILLS = 24, 5
PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
SHARED = ["dataset=ml100k", "tracking=none"]
POINTWISE = [
    "sweep=fm", *SHARED, "task=pointwise", "split=random", "fields=movielens", "trainer.max_epochs=6", "batch_size=512",
]  # fmt: skip
RANKING = ["sweep=softmax_fm", *SHARED, "trainer.max_epochs=20"]
SPACE = ["optimizer.lr=tag(log,interval(1e-3,3e-2))", "model.factor_l2=tag(log,interval(1e-3,1e-1))"]
TABLE = "adhoc/*-sweep-*/sweep.json"
OUTPUT = Path(__file__).parent / "sweeps.json"


def command(run: list[str], root: Path, jobs: int) -> list[str]:
    sweeper = ["hydra/sweeper=optuna", f"hydra.sweeper.n_trials={TRIALS}", f"hydra.sweeper.n_jobs={jobs}"]
    return [sys.executable, "-m", "factorlm", "train", *run, *SPACE, *sweeper, f"run.root={root}"]


def sweep(run: list[str], root: Path, jobs: int) -> tuple[float, float]:
    """Seconds that a whole sweep takes: of the clock, and of CPUs by all its processes."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # so that processes it leaves behind are ours to count
    started, before = time.perf_counter(), cpu_of_children()
    subprocess.run(command(run, root, jobs), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return seconds, cpu_of_children() - before


def cpu_of_children() -> float:
    """CPU seconds of processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def killed_sweep(root: Path, seconds: float, draw: random.Random) -> list[int]:
    """Run a sweep, killed with all its processes at random moments; trials that had ended at each."""
    ended = []
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(POINTWISE, root, 1), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0.05, 2 / KILLS) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        tables = list(root.glob(TABLE))
        states = [trial["state"] for trial in json.loads(tables[0].read_text())["trials"]] if tables else []
        ended.append(len(states) - states.count("running"))
    sweep(POINTWISE, root, 1)
    return ended


def trials(root: Path) -> list[dict[str, Any]]:
    """What must be equal in two sweeps."""
    (table,) = root.glob(TABLE)
    rows = json.loads(table.read_text())["trials"]
    return [{key: row[key] for key in ("number", "state", "params", "values")} for row in rows]


def runs(root: Path) -> list[dict[str, Any]]:
    """Records of a sweep's runs."""
    return [json.loads(path.read_text()) for path in root.glob("adhoc/*/record.json")]


def bare(root: Path, points: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds of the same runs, one after the other in this process: of the clock, and of the CPU."""
    from factorlm.commands.train import train
    from factorlm.config.compose import compose_config

    configs = [
        compose_config("train", [*RANKING, *(f"{key}={value}" for key, value in point.items()), f"run.root={root}"])
        for point in points
    ]
    train(configs[0], progress=False)  # imports and compiles what all need
    shutil.rmtree(root)
    started, before = time.perf_counter(), time.process_time()
    for config in configs:
        train(config, progress=False)
    return time.perf_counter() - started, time.process_time() - before


def kills(root: Path) -> dict[str, Any]:
    """An undisturbed sweep and one that is killed."""
    seconds, _ = sweep(POINTWISE, root / "alone", 1)
    ended = killed_sweep(root / "killed", seconds, random.Random(1))
    one, other = trials(root / "alone"), trials(root / "killed")
    return {
        "trials": len(one),
        "kills": KILLS,
        "ended_at_each_kill": ended,
        "same_trials": one == other,
        "runs": [len(runs(root / name)) for name in ("alone", "killed")],
    }


def cost(root: Path) -> dict[str, Any]:
    """A sweep of two jobs against its runs alone."""
    wall, cpu = sweep(RANKING, root / "together", 2)
    bare_wall, bare_cpu = bare(root / "bare", [row["params"] for row in trials(root / "together")])
    total = sum(record["seconds"]["total"] for record in runs(root / "together"))
    return {
        "sweep": {"wall": round(wall, 1), "cpu": round(cpu, 1), "records": round(total, 1)},
        "bare": {"wall": round(bare_wall, 1), "cpu": round(bare_cpu, 1)},
        "overhead": {
            "wall, over bare": round(2 * wall / bare_wall - 1, 3),
            "wall, over records": round(2 * wall / total - 1, 3),
            "cpu, over bare": round(cpu / bare_cpu - 1, 3),
        },
        "load": round(os.getloadavg()[2], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["kills", "cost"])
    part = parser.parse_args().part
    with tempfile.TemporaryDirectory() as folder:
        answer = {"kills": kills, "cost": cost}[part](Path(folder))
    found = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    OUTPUT.write_text(json.dumps({**found, part: answer}, indent=1) + "\n")
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
