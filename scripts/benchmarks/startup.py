"""Time from the start of a process to the first training step on MovieLens-100K; prints one JSON document.

    .venv/bin/python scripts/benchmarks/startup.py [--peers FOLDER]

``ours`` is ``factorlm train dataset=ml100k tracking=none``, and ``lora`` the same with ``backbone=smollm2_135m`` and
``adapter=lora``; a first run of each that is not measured fetches, prepares, compiles and stores what later runs find
on disk. With ``--peers`` RecBole 1.2.1 trains its FM on the interactions of the same data, of which it brings a copy,
in an environment under FOLDER that is made on the first use (1 GB, minutes). The clock stops as the loss of the first
batch is asked for. Processes take turns, one thread each. ``startup/recbole`` is the median over rounds of RecBole's
wall time over ours, ``startup/recbole_cpu`` the same of CPU time, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import environment

STOP = """
import os, sys, time

def stop(*arguments, **options):
    os.write(channel, str(time.process_time()).encode())
    os._exit(0)
"""
OVERRIDES = {"ours": [], "lora": ["backbone=smollm2_135m", "adapter=lora"]}
CODE = {
    "ours": """
from importlib.machinery import PathFinder

class Stopping:  # changes the module as it is imported: to import it beforehand would be another start
    def find_spec(self, name, path, target=None):
        if name != "factorlm.training.module":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_change(module):
            load(module)
            module.RankingModule.training_step = stop

        spec.loader.exec_module = load_and_change
        return spec

sys.meta_path.insert(0, Stopping())
from factorlm.cli import main

main(["train", "dataset=ml100k", "tracking=none", "run.root=.", *overrides])
""",
    "recbole": """
sys.path.append(benchmarks)
from peers import allow_recbole

allow_recbole()
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

columns = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
options = {"load_col": columns, "use_gpu": False, "show_progress": False, "state": "ERROR"}
config = Config(model="FM", dataset="ml-100k", config_dict=options)
init_seed(1, True)
train, valid, _ = data_preparation(config, create_dataset(config))
model = get_model("FM")(config, train.dataset)
model.calculate_loss = stop
get_trainer(config["MODEL_TYPE"], "FM")(config, model).fit(train, valid, saved=False, show_progress=False)
""",
}


def start(arm: str, python: Path) -> dict[str, float]:
    """Seconds of one process until its first step."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    receive, send = os.pipe()
    benchmarks = str(Path(__file__).resolve().parent)
    given = f"channel, benchmarks, overrides = {send}, {benchmarks!r}, {OVERRIDES.get(arm)}"
    code = given + STOP + CODE.get(arm, CODE["ours"])
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        started = time.perf_counter()
        process = subprocess.Popen(
            [python, "-W", "ignore", "-c", code], cwd=folder, pass_fds=[send], stdout=printed, stderr=printed,
            env=environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        os.close(send)
        cpu = os.read(receive, 100)
        wall = time.perf_counter() - started
        os.close(receive)
        process.wait()
        if not cpu:
            printed.seek(0)
            raise SystemExit(f"{arm} made no step:\n{printed.read().decode()}")
    return {"wall": wall, "cpu": float(cpu)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time from the start of a process to its first training step.")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where RecBole's environment is or is to be")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: JSON is all that is printed")
    options = parser.parse_args()
    pythons = dict.fromkeys(OVERRIDES, Path(sys.executable))
    if options.peers:
        pythons["recbole"] = environment(options.peers, "recbole")
    rounds = [{arm: start(arm, python) for arm, python in pythons.items()} for _ in range(options.rounds + 1)][1:]
    report = {
        "ratios": {
            f"startup/recbole{suffix}": round(np.median([turn["recbole"][c] / turn["ours"][c] for turn in rounds]), 3)
            for c, suffix in (("wall", ""), ("cpu", "_cpu"))
            if options.peers
        },
        "seconds": {
            clock: {arm: round(np.median([turn[arm][clock] for turn in rounds]), 2) for arm in pythons}
            for clock in ("wall", "cpu")
        },
    }
    if not options.peers:
        report["peers"] = "left out: give a folder for their environments as --peers FOLDER"
    print(json.dumps(report))


if __name__ == "__main__":
    main()
