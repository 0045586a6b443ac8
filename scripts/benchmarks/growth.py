"""Time and memory of preparing data and of one epoch as the data grow; prints one JSON document.

    .venv/bin/python scripts/benchmarks/growth.py [--rows 1000000 10000000 32000000]

A log of each size is generated as a parquet file, in the order of time: 160 rows for a user on average, items that grow
with the square root to 40,000 at 32M rows, both skewed; some pairs repeat and count once. ``prepare`` reads, checks,
splits by user and time, and writes, as `factorlm prepare` does; ``epoch`` loads that, builds the FM on ids, and passes
once over the training rows in a Lightning trainer with ``objective=sampled_softmax optimizer=row_adagrad
batch_size=8192``, as `factorlm train` does, but ranks nobody. Each stage of each size is a process of its own with one
thread.

``exponent`` is the slope of log CPU seconds over log rows, by least squares: 1 is linear. ``setup`` is what an epoch's
process does before its first step. Peak memory is the largest resident set of a process, memory-mapped files included.
32M rows take some minutes and 4 GB of disk.
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
from typing import Any

import numpy as np

SETTINGS = [
    "dataset=files", "objective=sampled_softmax", "optimizer=row_adagrad", "batch_size=8192", "trainer.max_epochs=1",
    "tracking=none",
]  # fmt: skip


def generate(folder: Path, rows: int) -> None:
    """Write the log: lognormal activity of users, popular items first; some pairs repeat."""
    import polars as pl

    rng = np.random.default_rng(0)
    users, items = rows // 160, round(40_000 * (rows / 32e6) ** 0.5)
    share = rng.lognormal(0, 1, users)
    user = rng.permutation(np.arange(users).repeat(rng.multinomial(rows, share / share.sum())))
    item = (rng.random(rows) ** 2 * items).astype(np.int64)
    seconds = np.sort(rng.integers(10**9, 15 * 10**8, rows))
    table = pl.DataFrame({"user_id": user, "item_id": item, "timestamp": seconds})
    table.unique(maintain_order=True).write_parquet(folder / "log.parquet")


def config_of(folder: Path) -> Any:
    from factorlm.config.compose import compose_config

    files = [f"dataset.interactions={folder / 'log.parquet'}", f"cache={folder / 'cache'}"]
    return compose_config("train", [*SETTINGS, *files])


def prepared_folder(config: Any) -> Path:
    from factorlm.config.build import cache_dir, make_data
    from factorlm.data.prepared import prepare

    return prepare(*make_data(config), cache_dir(config))[0]


def epoch(folder: Path, clock: Clock) -> None:
    """Load, build, and pass over the training rows."""
    import pytorch_lightning as pl
    import torch

    from factorlm.config.build import make
    from factorlm.config.model import make_model
    from factorlm.data.prepared import load_prepared
    from factorlm.evaluation.histories import train_contexts
    from factorlm.training.module import RankingModule, TrainBatches

    torch.set_num_threads(1)
    config = config_of(folder)
    found = prepared_folder(config)
    clock("start")
    prepared = load_prepared(found)
    pl.seed_everything(config.seed, verbose=False)
    model = make_model(config, prepared)
    items = torch.from_numpy(prepared.split.items["train"])
    pool, counts = items.unique(return_counts=True)
    parts = (make(config[name]) for name in ("objective", "optimizer", "metrics"))
    module = RankingModule(model, *parts, pool, counts, None, config.seed)
    batches = TrainBatches(train_contexts(prepared), (items,), config.batch_size, config.seed)
    trainer = make(config.trainer)(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    clock("setup")
    trainer.fit(module, batches)
    clock("epoch")
    clock.notes |= {"train_rows": len(items), "steps": trainer.global_step}


class Clock:
    """Notes the seconds since the last call, or the start of the process, under a name."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        self._last = time.process_time(), time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.process_time(), time.perf_counter()
        cpu, wall = (round(b - a, 2) for a, b in zip(self._last, now, strict=True))
        self.notes[name] = {"cpu": cpu, "wall": wall}
        self._last = time.process_time(), time.perf_counter()


def work(stage: str, folder: Path, rows: int) -> None:
    """Be the process of a stage; print what it took."""
    clock = Clock()
    if stage == "generate":
        generate(folder, rows)
    elif stage == "prepare":
        import datasets  # noqa: F401  to import is no part of the work

        import factorlm.data.prepared  # noqa: F401

        config = config_of(folder)
        clock("start")
        prepared_folder(config)
        clock("prepare")
    else:
        epoch(folder, clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(clock.notes | {"peak_gib": round(peak, 2)}))


def measured(rows: int) -> dict[str, Any]:
    """Stages of one size, each in its own process."""
    environ = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for stage in ("generate", "prepare", "epoch"):
            command = [sys.executable, "-W", "ignore", __file__, "--stage", stage, folder, str(rows)]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
            found[stage] = json.loads(result.stdout.splitlines()[-1])
    peak = {f"{stage}_peak_gib": found[stage].pop("peak_gib") for stage in ("prepare", "epoch")}
    return {"rows": rows, "prepare": found["prepare"]["prepare"], **found["epoch"], **peak}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory as the data grow.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000, 32_000_000])
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: JSON is all that is printed")
    parser.add_argument("--stage", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        stage, folder, rows = options.stage
        work(stage, Path(folder), int(rows))
        return
    measured(10_000)  # compiles what later processes find on disk
    sizes = [measured(rows) for rows in options.rows]

    def exponent(*stages: str) -> float:
        points = np.log([(size["rows"], sum(size[stage]["cpu"] for stage in stages)) for size in sizes])
        return round(float(np.polyfit(points[:, 0], points[:, 1], 1)[0]), 3)

    report: dict[str, Any] = {
        "sizes": sizes,
        "peak_gib": max(size[f"{s}_peak_gib"] for size in sizes for s in ("prepare", "epoch")),
    }
    if len(sizes) > 1:
        stages = "prepare", "setup", "epoch"
        report = {"exponents": {"all": exponent(*stages)} | {name: exponent(name) for name in stages}} | report
    print(json.dumps(report))


if __name__ == "__main__":
    main()
