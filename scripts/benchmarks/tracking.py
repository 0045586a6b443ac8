"""What tracking costs the default run, an FM on MovieLens-100K; prints one JSON document.

    .venv/bin/python scripts/benchmarks/tracking.py [--rounds 7]

The same run without tracking and with W&B offline, in processes that take turns, one thread each, after one of each
that is not measured. ``tracking/wandb_offline`` is the median over rounds of the training phase's seconds with W&B over
those without, ``tracking/wandb_offline/process`` the same of the whole process, ``.../cpu`` of the CPU time of the
process and those that it started, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ARMS = {"none": "none", "wandb_offline": "wandb"}
PHASES = {"": "train", "/process": "process", "/cpu": "cpu"}


def run(arm: str) -> dict[str, float]:
    """Seconds of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "factorlm", "train", f"tracking={ARMS[arm]}", f"run.dir={folder}/run"]
        environ = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environ)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        record = json.loads(Path(folder, "run", "record.json").read_text())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"train": record["seconds"]["train"], "process": seconds, "cpu": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description="What tracking costs the default run.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: JSON is all that is printed")
    rounds = []
    for turn in range(parser.parse_args().rounds + 1):
        rounds.append({arm: run(arm) for arm in (list(ARMS) if turn % 2 else list(ARMS)[::-1])})
    ratios = {
        f"tracking/wandb_offline{suffix}": [turn["wandb_offline"][p] / turn["none"][p] for turn in rounds[1:]]
        for suffix, p in PHASES.items()
    }
    report = {
        "ratios": {name: round(float(np.median(values)), 3) for name, values in ratios.items()},
        "rounds": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
        "seconds": {
            arm: {p: round(float(np.median([turn[arm][p] for turn in rounds[1:]])), 2) for p in PHASES.values()}
            for arm in ARMS
        },
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
