"""Time the training of a factorization machine against peers and against plain torch loops; prints one JSON document.

    .venv/bin/python scripts/benchmarks/fm_training.py [--peers FOLDER]

1M synthetic rows of 10 fields with 100,000 values each, 16 factors, batches of 4,096, logloss, one thread; the same
rows for all. With ``--peers`` RecBole 1.2.1 and FuxiCTR 2.3.10 take part, each in an environment of its own under
FOLDER, which is made on the first use (1 GB each, minutes). RecBole reads its text file for half a minute.

Every arm is a process that runs its own training loop: batches, forward, backward and update. They take turns in
windows of a CPU second while the others wait, so that a drifting machine slows all alike. A ratio is the median over
rounds of rows per second of CPU time, ours by theirs; rows per second are told by CPU and by wall time. Ours is the
framework's model under its row-wise Adagrad in a bare loop, against the libraries' trainers and against plain torch
loops under Adam, under Adam on the touched rows and under Adagrad on the touched rows. ``lightning`` is the framework's
own module inside a Lightning trainer, with its logging, over our bare loop.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import Tensor, nn

ROWS, FIELDS, VALUES, FACTORS, BATCH = 1_000_000, 10, 100_000, 16, 4096
HALF = FIELDS // 2  # fields of the user; the others are the item's
PINS = {
    "recbole": [
        "recbole==1.2.1", "torch==2.13.0", "numpy==2.4.6", "pandas==3.1.1", "scipy==1.17.1", "scikit-learn==1.9.1",
        "ray==2.6.3",
    ],
    "fuxictr": [
        "fuxictr==2.3.10", "torch==2.13.0", "numpy==2.4.6", "pandas==3.1.1", "scikit-learn==1.9.1", "ray==2.60.0",
    ],
}  # fmt: skip


def data() -> tuple[np.ndarray, np.ndarray]:
    """Codes [ROWS, FIELDS] and labels [ROWS]."""
    rng = np.random.default_rng(0)
    return rng.integers(0, VALUES, (ROWS, FIELDS)), rng.integers(0, 2, ROWS).astype(np.float32)


class Done(Exception):
    """All windows are over."""


class Windows:
    """A worker's side of the turns: `tick` is called as each step begins, and waits where a window ends."""

    def __init__(self, seconds: float) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a library prints is not for the other side
        self._seconds, self._steps, self._warm = seconds, 0, 10
        self._start = 0.0, 0.0

    def tick(self) -> None:
        """One step is over, the next begins."""
        self._steps += 1
        cpu, wall = time.process_time(), time.perf_counter()
        if self._warm:
            self._warm -= 1
            if not self._warm:
                self._turn({"ready": True})
        elif cpu - self._start[0] >= self._seconds:
            self._turn({"rows": self._steps * BATCH, "cpu": cpu - self._start[0], "wall": wall - self._start[1]})

    def _turn(self, result: dict[str, Any]) -> None:
        print(json.dumps(result), file=self._out, flush=True)
        if not sys.stdin.readline():
            raise Done
        self._steps, self._start = 0, (time.process_time(), time.perf_counter())


logloss = nn.functional.binary_cross_entropy_with_logits


def ours(optimizer: str) -> tuple[Any, Any]:
    """The framework's module and batches: a million users and items, with five fields each."""
    from factorlm.data.fields import CodedField
    from factorlm.heads.base import Shape
    from factorlm.heads.fm import FM
    from factorlm.models.recommender import Recommender
    from factorlm.models.table import Table
    from factorlm.objectives.logloss import LogLoss
    from factorlm.scoring import Contexts
    from factorlm.training.module import PointwiseModule, TrainBatches
    from factorlm.training.optimizers import RowAdagrad, RowAdam

    codes, labels = data()
    rng = np.random.default_rng(1)
    users, items = rng.permutation(ROWS), rng.permutation(ROWS)
    columns = [np.empty(ROWS, np.int64) for _ in range(FIELDS)]
    for field, column in enumerate(columns):
        column[users if field < HALF else items] = codes[:, field] + 1
    coded = [{f"f{f}": CodedField(columns[f], VALUES + 1) for f in part} for part in (range(HALF), range(HALF, FIELDS))]
    table = Table({"user": coded[0], "item": coded[1]}, FACTORS, 0.01)
    model = Recommender(table, {"user": {}, "item": {}}, None, FM(Shape(HALF, HALF, FACTORS)), 0.0)
    made = partial(RowAdagrad, lr=0.01) if optimizer == "row_adagrad" else partial(RowAdam, lr=0.001)
    none = torch.zeros(ROWS, dtype=torch.int64)
    contexts = Contexts(torch.from_numpy(users), none, none, none[:0])
    batches = TrainBatches(contexts, (torch.from_numpy(items), torch.from_numpy(labels)), BATCH, 0)
    return PointwiseModule(model, LogLoss(), made, None, None), batches


def bare(optimizer: str, windows: Windows) -> None:
    """The framework's model in the plainest loop."""
    module, batches = ours(optimizer)
    model, moves = module.model, module.configure_optimizers()
    while True:
        for contexts, items, labels in batches:
            windows.tick()
            moves.zero_grad()
            user, item = model.sides(contexts, items)
            (logloss(model.pair_scores(user, item), labels) + model.penalty(user, item)).backward()
            moves.step()


def lightning(windows: Windows, folder: Path) -> None:
    """The framework's module in a trainer, as `factorlm train` runs it, with a logger."""
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import CSVLogger

    module, batches = ours("row_adagrad")
    ticking(module, "training_step", windows)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=-1, deterministic=True, logger=CSVLogger(folder), log_every_n_steps=50,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, batches)


def batches(columns: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Batches without end, of rows in a random order."""
    while True:
        for rows in torch.randperm(ROWS).split(BATCH):
            if len(rows) == BATCH:
                yield tuple(column.index_select(0, rows) for column in columns)


def plain(kind: str, windows: Windows) -> None:
    """An FM in a few lines of torch under Adam, sparse Adagrad, or Adam on the rows that a batch touches."""
    codes, labels = data()
    columns = torch.from_numpy(codes) + torch.arange(FIELDS) * VALUES, torch.from_numpy(labels)
    table = nn.Embedding(FIELDS * VALUES, FACTORS + 1, sparse=kind != "dense_adam")
    nn.init.normal_(table.weight, std=0.01)
    bias = nn.Parameter(torch.zeros(1))
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam([bias], 1e-3)]
    if kind == "dense_adam":
        optimizers = [torch.optim.Adam([*table.parameters(), bias], 1e-3)]
    if kind == "sparse_adagrad":
        optimizers.append(torch.optim.Adagrad(table.parameters(), 1e-2))
    weight = table.weight.detach()
    first, second, step = torch.zeros_like(weight), torch.zeros_like(weight), 0
    for rows, targets in batches(columns):
        windows.tick()
        if kind == "row_adam":
            touched, places = rows.unique(return_inverse=True)
            leaf = weight[touched].requires_grad_()
            vectors = nn.functional.embedding(places, leaf)
        else:
            vectors = table(rows)
        factors = vectors[..., :FACTORS]
        pairs = factors.sum(1).square().sum(1) - factors.square().sum((1, 2))
        value = logloss(bias + vectors[..., FACTORS].sum(1) + 0.5 * pairs, targets)
        for optimizer in optimizers:
            optimizer.zero_grad()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        if kind == "row_adam":
            step += 1
            first[touched] = m = first[touched].lerp_(leaf.grad, 0.1)
            second[touched] = v = second[touched].mul_(0.999).addcmul_(leaf.grad, leaf.grad, value=0.001)
            root = (v / (1 - 0.999**step)).sqrt_().add_(1e-8)
            weight[touched] = leaf.detach() - 1e-3 / (1 - 0.9**step) * m / root


def recbole(windows: Windows, folder: Path) -> None:
    """RecBole's trainer on its context-aware FM; runs in RecBole's own environment."""
    for old, new in (("bool8", np.bool_), ("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        setattr(np, old, new)  # RecBole and its ray want names that NumPy 2 dropped
    import logging

    logging.disable(logging.WARNING)
    import pandas as pd
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    codes, labels = data()
    names = ["user_id", "item_id", *(f"f{field}" for field in range(2, FIELDS))]
    table = pd.DataFrame(
        {f"{name}:token": codes[:, field] for field, name in enumerate(names)} | {"label:float": labels}
    )
    Path(folder, "syn").mkdir()
    table.to_csv(folder / "syn" / "syn.inter", sep="\t", index=False)
    sys.argv = sys.argv[:1]  # Config reads it
    parts = {"mode": "labeled", "order": "RO", "group_by": None, "split": {"RS": [0.98, 0.01, 0.01]}}
    options = {
        "data_path": str(folder), "load_col": {"inter": [*names, "label"]}, "LABEL_FIELD": "label", "eval_args": parts,
        "train_neg_sample_args": None, "embedding_size": FACTORS, "train_batch_size": BATCH, "metrics": ["AUC"],
        "valid_metric": "AUC", "use_gpu": False, "show_progress": False, "state": "ERROR", "epochs": 10**6,
        "checkpoint_dir": str(folder),
    }  # fmt: skip
    config = Config(model="FM", dataset="syn", config_dict=options)
    init_seed(0, True)
    torch.set_num_threads(1)
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("FM")(config, train.dataset)
    ticking(model, "calculate_loss", windows)
    get_trainer(config["MODEL_TYPE"], config["model"])(config, model).fit(train, saved=False, show_progress=False)


def fuxictr(windows: Windows, folder: Path) -> None:
    """FuxiCTR's own loop and layers; its models are not in its wheel, so its FM is put together here as there."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding
    from fuxictr.pytorch.models import BaseModel

    class FM(BaseModel):
        def __init__(self, feature_map: Any, **options: Any) -> None:
            super().__init__(feature_map, model_id="FM", gpu=-1, **options)
            self.embedding_layer = FeatureEmbedding(feature_map, FACTORS)
            self.fm = FactorizationMachine(feature_map)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: Any) -> dict[str, Tensor]:
            values = self.get_inputs(inputs)
            return {"y_pred": self.output_activation(self.fm(values, self.embedding_layer(values)))}

    codes, labels = data()
    names = [f"f{field}" for field in range(FIELDS)]
    np.savez(folder / "train.npz", label=labels, **{name: codes[:, field] for field, name in enumerate(names)})
    kind = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": VALUES}
    content = {
        "dataset_id": "syn", "num_fields": FIELDS, "total_features": FIELDS * VALUES, "input_length": FIELDS,
        "labels": ["label"], "features": [{name: kind} for name in names],
    }  # fmt: skip
    (folder / "feature_map.json").write_text(json.dumps(content))
    options = {"use_features": None, "feature_specs": None, "dataset_id": "syn", "group_id": None}
    features = FeatureMap("syn", str(folder))
    features.load(str(folder / "feature_map.json"), {"embedding_dim": FACTORS, **options})
    (folder / "syn").mkdir()
    loader = RankDataLoader(
        features, stage="both", train_data=str(folder / "train.npz"), batch_size=BATCH, data_format="npz", shuffle=True,
        num_workers=0,
    )[0]  # fmt: skip
    task = {"task": "binary_classification", "metrics": ["AUC"], "model_root": str(folder), "verbose": 0}
    model = FM(features, **task)
    ticking(model, "train_step", windows)
    model.fit(loader, epochs=10**6)


def ticking(model: Any, name: str, windows: Windows) -> None:
    """Let a method of a library's model tell that a step begins."""
    method = getattr(model, name)

    def ticks(*arguments: Any, **options: Any) -> Any:
        windows.tick()
        return method(*arguments, **options)

    setattr(model, name, ticks)


def work(arm: str, seconds: float) -> None:
    """Be an arm, until the other side has had enough."""
    torch.set_num_threads(1)
    windows = Windows(seconds)
    with tempfile.TemporaryDirectory() as folder:
        try:
            if arm in ("row_adagrad", "row_adam"):
                bare(arm, windows)
            elif arm == "lightning":
                lightning(windows, Path(folder))
            elif arm == "recbole":
                recbole(windows, Path(folder))
            elif arm == "fuxictr":
                fuxictr(windows, Path(folder))
            else:
                plain(arm.removeprefix("plain_"), windows)
        except Done:
            pass


def environment(folder: Path, name: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        print(f"making {folder / name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS[name]]
        if subprocess.run(install).returncode:
            shutil.rmtree(folder / name)
            raise SystemExit(f"{name} cannot be installed; pip's reason is above")
    return python


class Worker:
    """A process that is an arm."""

    def __init__(self, arm: str, python: Path, seconds: float) -> None:
        self.arm, self.results = arm, list[dict[str, float]]()
        command = [python, "-P", "-W", "ignore", __file__, "--worker", arm, "--seconds", str(seconds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def window(self) -> None:
        """Let it work for a while."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.results.append(self._answer())

    def rate(self, clock: str) -> list[float]:
        """Rows per second of each window."""
        return [result["rows"] / result[clock] for result in self.results]

    def stop(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.arm} ended early; its error is above")
        return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the training of a factorization machine.")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where the peers' environments are or are to be")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of CPU, of a window")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: JSON is all that is printed")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.seconds)
        return

    here = Path(sys.executable)
    pythons = dict.fromkeys(("row_adagrad", "lightning", "row_adam"), here)
    pythons |= {f"plain_{kind}": here for kind in ("dense_adam", "row_adam", "sparse_adagrad")}
    if options.peers:
        pythons |= {name: environment(options.peers.resolve(), name) for name in PINS}
    workers = {arm: Worker(arm, python, options.seconds) for arm, python in pythons.items()}
    for number in range(options.rounds):
        for worker in list(workers.values())[:: 1 if number % 2 else -1]:
            worker.window()
    for worker in workers.values():
        worker.stop()

    def ratio(one: str, other: str) -> float:
        pairs = zip(workers[one].rate("cpu"), workers[other].rate("cpu"), strict=True)
        return round(float(np.median([a / b for a, b in pairs])), 3)

    others = [name for name in pythons if name in PINS or name.startswith("plain_")]
    ratios = {f"fm_training/{name.removeprefix('plain_')}": ratio("row_adagrad", name) for name in others}
    ratios["fm_training/lightning"] = ratio("lightning", "row_adagrad")
    report = {
        "ratios": ratios,
        "rows_per_second": {
            clock: {arm: round(np.median(worker.rate(clock))) for arm, worker in workers.items()}
            for clock in ("cpu", "wall")
        },
    }
    if not options.peers:
        report["peers"] = "left out: give a folder for their environments as --peers FOLDER"
    print(json.dumps(report))


if __name__ == "__main__":
    main()
