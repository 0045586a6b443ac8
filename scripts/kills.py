"""Kill runs, studies and sweeps with SIGKILL at random moments, and look at the store after each.

    .venv/bin/python scripts/kills.py --kills 100 --out experiments/interruptions/kills.json

Four commands on synthetic data take turns: a run with W&B offline, a LoRA run, a study of two processes and a sweep.
Each is killed with all its processes and called again until it ends; then the next seed begins. Half of the kills come
at any moment, half soon after a training has written its state. After every kill
``factorlm runs`` must list the store, and every run that says it is done must be whole. At the end each finished run is
trained again in an empty store, undisturbed, and compared.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import polars as pl
from safetensors.torch import load_file

STUDY = """
question: Does text help on synthetic data?
metric: ndcg@10
smallest_effect: 0.01
baseline: ids
seeds: [{seed}]
protocols: {{user_time: [split=user_time], random: [split=random]}}
shared: [dataset=synthetic, trainer.max_epochs=10, save_every=0.2]
arms: {{ids: [], mean: [fields=item, encoder=mean]}}
"""
TRAIN = ["train", "dataset=synthetic", "save_every=0.2"]


def commands(root: Path, seed: int) -> dict[str, list[str]]:
    """What is killed, by name."""
    folder = root / "studies" / f"demo{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(STUDY.format(seed=seed))
    sweep = ["sweep=fm", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.prune=true"]
    return {
        "run": [*TRAIN, "arm=fm", f"seed={seed}", "trainer.max_epochs=40"],
        "lora": [*TRAIN, "arm=lora", f"seed={seed}", "backbone=tiny", "adapter=lora", "adapter.num_layers=1",
                 "trainer.max_epochs=5", "tracking=none"],
        "study": ["compare", f"study={folder}", "resamples=200", "tracking=none"],
        "sweep": [*TRAIN, f"study=sweep{seed}", f"seed={seed}", *sweep, "trainer.max_epochs=5", "tracking=none"],
    }  # fmt: skip


def start(arguments: list[str], root: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "factorlm", *arguments, f"run.root={root / 'runs'}"]
    with (root / "log.txt").open("a") as log:
        return subprocess.Popen(command, cwd=root, stdout=log, stderr=log, start_new_session=True)


def killed(arguments: list[str], root: Path, seconds: float, in_training: bool) -> bool:
    """Start a command and kill it and its processes after some seconds; False if it ended by itself.

    With ``in_training`` the seconds count from a state that it writes.
    """
    began = time.time()
    process = start(arguments, root)
    while in_training and process.poll() is None and not wrote_state(root, began):
        time.sleep(0.05)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    if code:
        raise SystemExit(f"{' '.join(arguments)} ended with {code}; see {root / 'log.txt'}")
    return False


def wrote_state(root: Path, since: float) -> bool:
    """Whether a training has written its state since a moment."""
    for path in root.glob("runs/**/checkpoint/state.pt"):
        with suppress(FileNotFoundError):  # it has just ended
            if path.stat().st_mtime > since:
                return True
    return False


def listed(root: Path) -> list[dict]:
    """What ``factorlm runs`` says, which must not fail."""
    command = [sys.executable, "-m", "factorlm", "runs", "--json", f"run.root={root / 'runs'}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode or answer.stderr:
        raise SystemExit(f"factorlm runs failed: {answer.stderr}")
    return json.loads(answer.stdout)


def whole(folder: Path) -> bool:
    """Whether a run that says it is done has all it should have."""
    record = json.loads((folder / "record.json").read_text())
    per_user = pl.read_parquet(folder / "per_user.parquet")
    mean = per_user.select(pl.col("ndcg@10").fill_nan(None).mean()).item()
    load_file(folder / "checkpoint" / "model.safetensors")
    return math.isclose(mean, record["metrics"]["test/ndcg@10"], abs_tol=1e-9) and "ended" in record


def content(run: dict) -> tuple:
    return run["metrics"], (Path(run["folder"]) / "checkpoint" / "model.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=12, help="longest life of a process")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chance, counts, statuses = random.Random(arguments.seed), Counter(), Counter()
    with tempfile.TemporaryDirectory() as temporary:
        root, calm = Path(temporary) / "killed", Path(temporary) / "calm"
        for place in (root, calm):
            place.mkdir()
        seeds = Counter()
        while counts.total() < arguments.kills:
            name = ("run", "lora", "study", "sweep")[counts.total() % 4]
            seeds[name] = seeds[name] or 1
            in_training = counts.total() % 8 < 4
            seconds = chance.uniform(0, 1 if in_training else arguments.seconds)
            if not killed(commands(root, seeds[name])[name], root, seconds, in_training):
                seeds[name] += 1
                continue
            counts[name] += 1
            runs = listed(root)
            broken = [run["folder"] for run in runs if run["status"] == "done" and not whole(Path(run["folder"]))]
            if broken:
                raise SystemExit(f"corrupt or falsely finished: {broken}")
            statuses.update(run["status"] for run in runs)
            print(dict(counts), Counter(run["status"] for run in runs), flush=True)
        for name, last in seeds.items():
            for seed in range(1, last + 1):
                start(commands(root, seed)[name], root).wait()
                start(commands(calm, seed)[name], calm).wait()
        pair = [
            {Path(run["folder"]).name: run for run in listed(place) if run["status"] == "done"}
            for place in (root, calm)
        ]
        assert pair[0].keys() == pair[1].keys()
        equal = sum(content(run) == content(pair[1][name]) for name, run in pair[0].items())
        interrupted = sum(
            "interruptions" in json.loads((Path(run["folder"]) / "record.json").read_text()) for run in pair[0].values()
        )
        answer = {
            "kills": dict(counts), "corrupt_or_falsely_finished": 0, "failures_of_factorlm_runs": 0,
            "statuses_seen": dict(statuses), "runs": len(pair[0]), "runs_resumed": interrupted,
            "runs_equal_to_undisturbed": equal, "seconds": round(time.monotonic() - STARTED),
        }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(answer, indent=1) + "\n")
    print(json.dumps(answer))


STARTED = time.monotonic()
if __name__ == "__main__":
    main()
