"""Time a factorization machine's ranking of all items for all users; prints one JSON document.

    .venv/bin/python scripts/benchmarks/ranking.py [--peers FOLDER]

An FM on ids with 64 factors ranks the ten best items for each of 6,040 users among 3,706 items, with histories as long
as MovieLens-1M's, and for each of 20,000 users among 50,000 items; what a user has is excluded. One thread.

``matmul_topk`` is our time, by `factorlm.evaluation.ranking.rank` with its defaults, over that of one ``torch.matmul``
and one ``torch.topk`` for each batch of users, in the batch size that suits those best; they encode and exclude
nothing. With ``--peers`` RecBole 1.2.1 takes part, in an environment under FOLDER that is made on the first use (1 GB,
minutes). Its FM has no ranking of its own: its trainer's evaluation scores a user's pairs with all items by
``predict``. So it gets the same 6,040 users with their histories, evaluates some of them, in the batch size that suits
it best, and ``recbole_fm`` compares users by second.

All is CPU time, arms take turns, and ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from peers import allow_recbole, environment
from torch import Tensor

FACTORS, K = 64, 10
SIZES = {"6040x3706": (6040, 3706, 96), "20000x50000": (20_000, 50_000, 30)}  # users, items, median history
BATCHES = (64, 128, 256, 512, 1024)
ASKED = 256  # users whom RecBole ranks in a turn
RECBOLE_BATCHES = (4096, 16_384, 65_536)  # pairs


def histories(size: str) -> tuple[np.ndarray, np.ndarray]:
    """Users and items [n] of the interactions, by user: lognormal activity, popular items first."""
    users, items, median = SIZES[size]
    rng = np.random.default_rng(0)
    counts = np.minimum(rng.lognormal(np.log(median), 1.0, users).astype(int) + 1, items // 3)
    user = np.arange(users).repeat(counts)
    item = (rng.random(len(user)) ** 2 * items).astype(np.int64)
    pairs = np.unique(user * items + item)
    return pairs // items, pairs % items


def cpu_seconds(work: Callable[..., Any], *arguments: Any) -> float:
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


def ours(size: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """The framework's model and ranking, checked against a plain ranking of some users."""
    from factorlm.data.fields import CodedField
    from factorlm.evaluation.ranking import rank
    from factorlm.heads.base import Shape
    from factorlm.heads.fm import FM
    from factorlm.models.recommender import Recommender
    from factorlm.models.table import Table
    from factorlm.scoring import Contexts

    users, items, _ = SIZES[size]
    user, log = map(torch.from_numpy, histories(size))
    ends = user.bincount(minlength=users).cumsum(0)
    contexts = Contexts(torch.arange(users), ends - user.bincount(minlength=users), ends, log)
    ids = {name: {name: CodedField(np.arange(1, n + 1), n + 1)} for name, n in (("user", users), ("item", items))}
    model = Recommender(Table(ids, FACTORS, 0.1), {"user": {}, "item": {}}, None, FM(Shape(1, 1, FACTORS)), 0.0)
    torch.nn.init.normal_(model.table.weight[1:, -1].detach(), std=0.1)
    every, some = torch.arange(items), torch.arange(64)

    def work() -> tuple[Tensor, Tensor]:
        return rank(model, contexts, every, K)

    with torch.no_grad():
        one, other = model.matrices(model.user_side(contexts[some]), model.item_side(every))
        scores = one @ other.T
        scores[contexts[some].pairs()] = -torch.inf
    torch.testing.assert_close(work()[1][some], scores.topk(K).values, rtol=1e-4, atol=1e-5)
    return work


def plain(size: str) -> Callable[[int], None]:
    """One product and one selection for each batch."""
    users, items, _ = SIZES[size]
    user_vectors, item_vectors = torch.randn(users, FACTORS), torch.randn(items, FACTORS)

    def work(batch: int) -> None:
        for rows in user_vectors.split(batch):
            torch.matmul(rows, item_vectors.T).topk(K)

    return work


def recbole(folder: Path, output: int) -> None:
    """Evaluate some users whenever asked, in RecBole's own environment; tell users and CPU seconds."""
    allow_recbole()
    import logging

    logging.disable(logging.WARNING)
    import pandas as pd
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    user, item = histories("6040x3706")
    (folder / "syn").mkdir()
    asked = np.flatnonzero(np.isin(user, np.random.default_rng(1).permutation(SIZES["6040x3706"][0])[:ASKED]))
    test = asked[np.unique(user[asked], return_index=True)[1]]  # one row of each
    train = np.setdiff1d(np.arange(len(user)), test)
    for part, rows in (("train", train), ("valid", test[:1]), ("test", test)):
        columns = {"user_id:token": user[rows], "item_id:token": item[rows]}
        pd.DataFrame(columns).to_csv(folder / "syn" / f"syn.{part}.inter", sep="\t", index=False)
    sys.argv = sys.argv[:1]  # Config reads it
    torch.set_num_threads(1)
    evaluate = {}
    for batch in RECBOLE_BATCHES:
        options = {
            "data_path": str(folder), "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "eval_args": {"mode": "full", "order": "RO", "group_by": None}, "metrics": ["Recall"], "topk": [K],
            "valid_metric": f"Recall@{K}", "embedding_size": FACTORS, "eval_batch_size": batch, "use_gpu": False,
            "show_progress": False, "state": "ERROR",
            "checkpoint_dir": str(folder),
        }  # fmt: skip
        config = Config(model="FM", dataset="syn", config_dict=options)
        init_seed(0, True)
        parts = data_preparation(config, create_dataset(config))
        trainer = get_trainer(config["MODEL_TYPE"], "FM")(config, get_model("FM")(config, parts[0].dataset))

        def work(trainer: Any = trainer, part: Any = parts[2]) -> None:
            trainer.evaluate(part, load_best_model=False, show_progress=False)

        evaluate[batch] = cpu_seconds(work), work
    best = min(evaluate, key=lambda batch: evaluate[batch][0])
    with os.fdopen(output, "w") as out:
        print(json.dumps({"pairs_in_a_batch": best}), file=out, flush=True)
        for _ in sys.stdin:
            print(json.dumps({"users": len(test), "cpu": cpu_seconds(evaluate[best][1])}), file=out, flush=True)


class RecBole:
    """The process that is RecBole."""

    def __init__(self, python: Path, folder: str) -> None:
        command = [python, "-W", "ignore", Path(__file__).resolve(), "--recbole", folder]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
        self.settings = self._answer()

    def rate(self) -> float:
        """Users by second of a turn."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["users"] / answer["cpu"]

    def stop(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("recbole ended early; its error is above")
        return json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a factorization machine's ranking of all items.")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where RecBole's environment is or is to be")
    parser.add_argument("--rounds", type=int, default=15, help="at the small size; the large one gets a third")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: JSON is all that is printed")
    parser.add_argument("--recbole", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.recbole:
        output = os.dup(1)
        os.dup2(2, 1)  # what the library prints is not for the other side
        recbole(options.recbole, output)
        return

    torch.set_num_threads(1)
    torch.manual_seed(0)
    ratios, rates, batches = {}, {}, {}
    for size, rounds in zip(SIZES, (options.rounds, max(3, options.rounds // 3)), strict=True):
        work, product, users = ours(size), plain(size), SIZES[size][0]
        trials = {batch: min(cpu_seconds(product, batch) for _ in range(2)) for batch in BATCHES}
        batches[f"matmul_topk_{size}"] = best = min(trials, key=trials.__getitem__)
        pairs = [(cpu_seconds(work), cpu_seconds(product, best)) for _ in range(rounds)]
        ratios[f"ranking/matmul_topk_{size}"] = round(np.median([a / b for a, b in pairs]), 3)
        for name, column in zip(("ours", "matmul_topk"), zip(*pairs, strict=True), strict=True):
            rates[f"{name}_{size}"] = round(users / np.median(column))
    if options.peers:
        size = "6040x3706"
        work = ours(size)
        with tempfile.TemporaryDirectory() as folder:
            peer = RecBole(environment(options.peers, "recbole"), folder)
            turns = [(SIZES[size][0] / cpu_seconds(work), peer.rate()) for _ in range(max(3, options.rounds // 3))]
            peer.stop()
        ratios["ranking/recbole_fm"] = round(np.median([a / b for a, b in turns]), 1)
        rates["recbole_fm"] = round(np.median([b for _, b in turns]), 1)
        batches["recbole_fm, pairs"] = peer.settings["pairs_in_a_batch"]
    report = {"ratios": ratios, "users_per_cpu_second": rates, "batch_of_the_other": batches}
    if not options.peers:
        report["peers"] = "left out: give a folder for their environments as --peers FOLDER"
    print(json.dumps(report))


if __name__ == "__main__":
    main()
