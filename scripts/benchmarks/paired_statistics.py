"""Time the paired statistics: five arms, twenty metrics, three seeds, 6,000 users, 10,000 resamples; prints JSON.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 .venv/bin/python scripts/benchmarks/paired_statistics.py
"""

from __future__ import annotations

import json
import time

import numpy as np

from factorlm.comparison.statistics import paired_effects

ARMS, METRICS, SEEDS, USERS, RESAMPLES = 5, 20, 3, 6000, 10_000


def main() -> None:
    difference = np.random.default_rng(0).normal(0, 0.1, (ARMS, METRICS, SEEDS, USERS))
    started = time.perf_counter(), time.process_time()
    paired_effects(difference, RESAMPLES, 0.005)
    wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    print(json.dumps({"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}))


if __name__ == "__main__":
    main()
