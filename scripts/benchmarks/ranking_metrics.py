"""Time the ranking metrics at 10 against a bare top-10 and against RecBole's; prints one JSON document.

    .venv/bin/python scripts/benchmarks/ranking_metrics.py --recbole PYTHON

PYTHON is the interpreter of an environment with RecBole 1.2.1; without the option RecBole is left out.

Users arrive in batches of scores with 10 held-out and 50 seen items each. Three ways do the same work on the same
scores: ``topk`` masks what was seen and calls ``torch.topk``, no more; ``ours`` and ``recbole`` mask and come to six
metrics. They take turns batch by batch, so that a drifting machine slows all alike, each on a fresh copy. Counted is
the CPU time of a process on one thread, without drawing and copying scores. The metrics must agree to 1e-6; those of
``topk`` are worked out from its lists outside the clock.

Ratios are in users per second: how many times as fast ours is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

K, POSITIVES, SEEN = 10, 10, 50


class Batch(NamedTuple):
    """Users [U], their scores [U, N], and pairs (row, column) of held-out and seen items in the scores."""

    users: Tensor
    scores: Tensor
    positives: tuple[Tensor, Tensor]
    seen: tuple[Tensor, Tensor]


Batches = Iterator[Batch]


def data(users: int, items: int, size: int) -> Batches:
    """Normal scores, each user's first held-out item 6 higher; no item is both held out and seen."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((size, items), dtype=np.float32)
    drawn = np.stack([rng.choice(items, POSITIVES + SEEN, replace=False) for _ in range(users)])
    for number, start in enumerate(range(0, users, size)):
        chosen = torch.from_numpy(drawn[start : start + size])
        rows = torch.arange(len(chosen))
        scores = torch.from_numpy(np.roll(base, 37 * number, axis=1)[: len(chosen)])
        scores[rows, chosen[:, 0]] += 6
        held_out = rows.repeat_interleave(POSITIVES), chosen[:, :POSITIVES].flatten()
        seen = rows.repeat_interleave(SEEN), chosen[:, POSITIVES:].flatten()
        yield Batch(start + rows, scores, held_out, seen)


def topk(batches: Batches) -> Iterator[Any]:
    """The bare loop; each step gives the lists [U, K]."""
    yield None
    for batch in batches:
        batch.scores[batch.seen] = -torch.inf
        yield torch.topk(batch.scores, K).indices
    yield None


def ours(batches: Batches) -> Iterator[Any]:
    """FactorLM: like the others it sets up, takes a step for each batch, and gives the metrics in the last step."""
    from factorlm.metrics.ranking import RankingMetrics

    metrics = RankingMetrics([K])
    yield None
    for batch in batches:
        batch.scores[batch.seen] = -torch.inf
        metrics.update(batch.users, batch.users, batch.scores, *batch.positives)
        yield None
    yield metrics.compute()


def recbole(batches: Batches) -> Iterator[Any]:
    """RecBole's Collector and Evaluator, as its Trainer calls them; runs in RecBole's own environment."""
    for old, new in (("bool8", np.bool_), ("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        setattr(np, old, new)  # RecBole and its ray want names that NumPy 2 dropped
    import logging

    logging.disable(logging.WARNING)
    from recbole.config import Config
    from recbole.evaluator import Collector, Evaluator

    names = ["NDCG", "Recall", "Precision", "Hit", "MRR", "MAP"]
    options = {"metrics": names, "valid_metric": f"NDCG@{K}", "topk": [K], "use_gpu": False, "metric_decimal_place": 9}
    sys.argv = sys.argv[:1]  # Config reads it
    config = Config(model="BPR", dataset="ml-100k", config_dict=options)
    collector, evaluator = Collector(config), Evaluator(config)
    torch.set_num_threads(1)
    yield None
    for batch in batches:
        batch.scores[batch.seen] = -torch.inf
        collector.eval_batch_collect(batch.scores, None, *batch.positives)
        yield None
    yield {name: float(value) for name, value in evaluator.evaluate(collector.get_data_struct()).items()}


class Arm:
    """One way to do the work, and the CPU seconds it took."""

    def __init__(self, way: Callable[[Batches], Iterator[Any]]) -> None:
        self.seconds = 0.0
        self.waiting: deque[Batch | None] = deque()
        self.steps = way(iter(self.waiting.popleft, None))
        next(self.steps)  # set up, not counted

    def step(self, batch: Batch | None) -> Any:
        """Do one batch, on a copy of its scores; None: finish."""
        self.waiting.append(batch and batch._replace(scores=batch.scores.clone()))
        started = time.process_time()
        result = next(self.steps)
        self.seconds += time.process_time() - started
        return result


def by_hand(lists: Tensor, positives: Tensor) -> dict[str, float]:
    """The metrics of lists [U, K] with held-out items [U, n], one user at a time; assumes no ties."""
    values = []
    for ranked, held_out in zip(lists.tolist(), positives.tolist(), strict=True):
        ranks = [rank for rank, item in enumerate(ranked, 1) if item in held_out]
        ideal = sum(1 / np.log2(1 + rank) for rank in range(1, min(len(held_out), K) + 1))
        values.append(
            {
                "precision": len(ranks) / K,
                "recall": len(ranks) / len(held_out),
                "f1": 2 * len(ranks) / (K + len(held_out)),
                "ndcg": sum(1 / np.log2(1 + rank) for rank in ranks) / ideal,
                "hit": float(bool(ranks)),
                "mrr": 1 / ranks[0] if ranks else 0.0,
                "map": sum(number / rank for number, rank in enumerate(ranks, 1)) / len(held_out),
            }
        )
    return {f"{name}@{K}": float(np.mean([user[name] for user in values])) for name in values[0]}


def worker(batches: Batches) -> None:
    """RecBole's side of the turns: a line in for each batch and for the end, a line out when it is done."""
    arm = Arm(recbole)
    print("ready", flush=True)
    for batch in batches:
        input()
        arm.step(batch)
        print("done", flush=True)
    input()
    print(json.dumps({"values": arm.step(None), "seconds": arm.seconds}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the ranking metrics.")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--recbole", metavar="PYTHON", help="interpreter of RecBole's environment; default: left out")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [options.users, options.items, options.batch]
    if options.worker:
        worker(data(*sizes))
        return

    arms = {"topk": Arm(topk), "ours": Arm(ours)}
    other = None
    if options.recbole:
        flags = [f"--{name}={size}" for name, size in zip(("users", "items", "batch"), sizes, strict=True)]
        command = [options.recbole, "-W", "ignore", __file__, "--worker", *flags]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(expected: str) -> str:
        line = other.stdout.readline()
        if not line.startswith(expected):
            raise SystemExit(f"RecBole's process said {line!r}, not {expected!r}; its error is above")
        return line

    def go() -> None:
        other.stdin.write("\n")
        other.stdin.flush()

    if other:
        turn("ready")
    lists, positives = [], []
    for number, batch in enumerate(data(*sizes)):
        for name in ("topk", "ours") if number % 2 else ("ours", "topk"):
            result = arms[name].step(batch)
            if name == "topk":
                lists.append(result)
        positives.append(batch.positives[1].view(-1, POSITIVES))
        if other:
            go()
            turn("done")
    metrics = {"ours": arms["ours"].step(None), "topk": by_hand(torch.cat(lists), torch.cat(positives))}
    seconds = {name: arm.seconds for name, arm in arms.items()}
    if other:
        go()
        answer = json.loads(turn("{"))
        metrics["recbole"], seconds["recbole"] = answer["values"], answer["seconds"]
        other.wait()

    report: dict[str, Any] = {
        "users, items, batch": sizes,
        "users/s": {name: round(options.users / value) for name, value in seconds.items()},
        "ratios": {f"ours/{name}": round(seconds[name] / seconds["ours"], 3) for name in seconds if name != "ours"},
        "metrics": {way: {name: round(value, 8) for name, value in values.items()} for way, values in metrics.items()},
    }
    if not other:
        report["recbole"] = "left out: give its interpreter as --recbole PYTHON"
    gaps = [
        abs(value - metrics["topk"][name])
        for way in metrics.keys() - {"topk"}
        for name, value in metrics[way].items()
        if name in metrics["topk"]
    ]
    report["largest difference"] = max(gaps)
    print(json.dumps(report))
    if max(gaps) > 1e-6:
        raise SystemExit("the metrics differ")


if __name__ == "__main__":
    main()
