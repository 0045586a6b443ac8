"""Memory and time of a full ranking of 200,000 items for each of 100,000 users, as `factorlm train` does it.

    python scripts/benchmarks/large_ranking.py [--users 100000] [--items 200000]

An interaction log is generated, a factorization machine takes 20 steps, validation and test are ranked in full, with
every metric and slice. Prints the peak memory of the process and the milliseconds of evaluation per test user, as the
record of the run has them. Takes some ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

PER_USER = 15


def log(users: int, items: int) -> pl.DataFrame:
    """Popular items get more interactions, and every item gets one."""
    generator = np.random.default_rng(0)
    chosen = (generator.random((users, PER_USER)) ** 2 * items).astype(np.int64)
    user = np.concatenate([generator.integers(0, users, size=items), np.repeat(np.arange(users), PER_USER)])
    item = np.concatenate([np.arange(items), chosen.ravel()])
    time = np.concatenate([np.zeros(items, np.int64), generator.integers(1, 10**6, size=users * PER_USER)])
    table = pl.DataFrame({"user_id": user, "item_id": item, "timestamp": time})
    return table.unique(["user_id", "item_id"], keep="first", maintain_order=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log(options.users, options.items).write_parquet(Path(folder, "log.parquet"))
        settings = [
            "dataset=files", f"dataset.interactions={folder}/log.parquet", "split=user_time", "objective=bpr",
            "trainer.max_epochs=1", "trainer.limit_train_batches=20", "tracking=none", f"cache={folder}/cache",
            f"run.dir={folder}/run",
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "factorlm", "train", *settings], check=True, stdout=subprocess.DEVNULL)
        record = json.loads(Path(folder, "run", "record.json").read_text())
    print(
        json.dumps({
            "users": record["split"]["users"]["test"], "candidates": record["split"]["items"]["train"],
            "peak_memory_mb": record["peak_memory_mb"], "ms_per_user": record["ms_per_user"],
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
