"""Interrupt runs at random moments, let them go on, and count what differs from runs that were left alone.

    .venv/bin/python scripts/interruptions.py --points 24 --out experiments/interruptions/exact.json

Each arm is trained once undisturbed and once with interruptions, every second one by SIGTERM and the others by kill -9,
between the first state that a process writes and a few seconds after it. At the end weights are compared bit by bit,
and metrics and histories number by number. Arms that ``--out`` has already stay in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

COMMON = ["dataset=ml100k", "tracking=none", "save_every=0.3"]
LORA = ["dataset=synthetic", "adapter=lora", "adapter.num_layers=2", "batch_size=64", "trainer.max_epochs=3"]
ARMS = {
    "fm": ["model.num_factors=32", "trainer.max_epochs=12"],
    "bpr": ["head=dot", "objective=bpr", "trainer.max_epochs=12"],
    "deepfm": ["task=pointwise", "head=deepfm", "head.dropout=0.2", "fields=movielens", "trainer.max_epochs=6"],
    "attention": ["task=pointwise", "encoder=attention", "split=global_time", "trainer.max_epochs=2"],
    "minilm_lora": [*LORA, "backbone=minilm"],
    "smollm2_lora": [*LORA, "backbone=smollm2_135m"],
}


def command(arm: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "factorlm", "train", *COMMON, *ARMS[arm], f"run.dir={folder}"]


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def interrupt(arm: str, folder: Path, number: int, delay: float) -> dict | None:
    """Start the run and send it a signal; None if it ended before."""
    state = folder / "checkpoint" / "state.pt"
    before = state.stat().st_mtime_ns if state.exists() else 0
    process = subprocess.Popen(command(arm, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (state.exists() and state.stat().st_mtime_ns > before):
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(number)
    process.wait()
    if record_of(folder)["status"] == "done":
        return None
    assert process.returncode == (143 if number == signal.SIGTERM else -9), process.returncode
    found = torch.load(state, weights_only=True)
    place = {"epoch": found["epoch"], "batch": found["batch"], "ended": found["ended"]}
    return {"arm": arm, "signal": signal.Signals(number).name, "delay": round(delay, 2), **place}


def differing_bits(one: Path, other: Path) -> int:
    """Bits that differ between the weights of two runs."""
    first, second = (load_file(folder / "checkpoint/model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    views = [[part[name].reshape(-1).view(torch.uint8).numpy() for part in (first, second)] for name in first]
    return int(sum(np.unpackbits(a ^ b).sum() for a, b in views))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=24, help="interruptions in all")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--runs", type=Path, default=Path("runs/interruptions"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chance = random.Random(arguments.seed)
    arms = json.loads(arguments.out.read_text())["arms"] if arguments.out.exists() else {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    each = -(-arguments.points // len(arguments.arms))
    for arm in arguments.arms:
        whole, parts = (arguments.runs / f"{arm}-{kind}" for kind in ("whole", "parts"))
        subprocess.run(command(arm, whole), check=True, stdout=subprocess.DEVNULL)
        seconds = record_of(whole)["seconds"]["train"]
        own = []
        while len(own) < each:
            number = (signal.SIGTERM, signal.SIGKILL)[len(own) % 2]
            point = interrupt(arm, parts, number, chance.uniform(0, 1.5 * seconds / each))
            if point is None:
                break
            own.append(point)
            print(point, flush=True)
        subprocess.run(command(arm, parts), check=True, stdout=subprocess.DEVNULL)
        one, other = record_of(whole), record_of(parts)
        same = {key: one[key] == other[key] for key in ("metrics", "history", "best_epoch", "steps")}
        tables = {
            path.name: path.read_bytes() == (parts / path.name).read_bytes() for path in sorted(whole.glob("*.parquet"))
        }
        arms[arm] = {
            "differing_bits": differing_bits(whole, parts), "equal": same | tables,
            "train_seconds": [one["seconds"]["train"], other["seconds"]["train"]], "interruptions": own,
        }  # fmt: skip
        total = {
            "interruptions": sum(len(found["interruptions"]) for found in arms.values()),
            "differing_bits": sum(found["differing_bits"] for found in arms.values()),
            "differing_files_and_numbers": sum(not same for found in arms.values() for same in found["equal"].values()),
        }
        arguments.out.write_text(json.dumps(total | {"arms": arms}, indent=1) + "\n")
        print(arm, total, flush=True)


if __name__ == "__main__":
    main()
