"""One process and two give the same bits, every row counted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from factorlm.config.build import make_data
from factorlm.config.compose import compose_config
from factorlm.config.evaluator import make_evaluator
from factorlm.config.model import make_model
from factorlm.data.prepared import load_prepared, prepare
from factorlm.evaluation.base import Evaluation
from factorlm.metrics.pointwise import PointwiseMetrics
from factorlm.metrics.ranking import BeyondMetrics, RankingMetrics
from factorlm.metrics.ranks import top_scores

USERS, ITEMS, ROWS = 31, 80, 101


def ranked(batches: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Metrics of questions, in the batches of this process."""
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(np.round(generator.normal(size=(USERS, ITEMS)), 1).astype(np.float32))
    positives = generator.random((USERS, ITEMS)) < 0.1
    grades = torch.from_numpy(generator.uniform(1, 5, size=(USERS, ITEMS)))
    accuracy = RankingMetrics([1, 10], max_grade=5.0)
    beyond = BeyondMetrics([10], torch.arange(ITEMS), torch.from_numpy(generator.uniform(0.1, 1, size=ITEMS)), None)
    for batch in batches:
        row, column = (torch.from_numpy(place) for place in np.nonzero(positives[batch]))
        index, top = torch.from_numpy(batch), top_scores(scores[batch], 10)
        accuracy.update(index, index // 2, scores[batch], row, column, grades[batch][row, column], top)
        beyond.update(index, index // 2, scores[batch], top)
    return {
        "users": accuracy.per_user()[0], "values": accuracy.per_user()[1], "lists": beyond.per_user()[1],
        "means": torch.tensor(list(accuracy.compute().values()) + list(beyond.compute().values()), dtype=torch.float64),
    }  # fmt: skip


def scored(batches: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Metrics of rows, in the batches of this process."""
    generator = np.random.default_rng(1)
    users, labels = generator.integers(0, 9, size=ROWS), generator.integers(0, 2, size=ROWS)
    scores = np.round(generator.normal(size=ROWS), 1)
    metrics = PointwiseMetrics()
    for batch in batches:
        metrics.update(*(torch.from_numpy(column) for column in (batch, users[batch], labels[batch], scores[batch])))
    details, means = metrics.details(), torch.tensor(list(metrics.compute().values()), dtype=torch.float64)
    return {"users": details.users, "means": means, **details.shares}


def batches(number: int, process: int, processes: int, size: int, repeat: bool) -> list[np.ndarray]:
    found = [np.arange(start, min(start + size, number)) for start in range(process * size, number, processes * size)]
    if repeat and process == processes - 1:  # samplers pad the last process with rows of others
        found.append(np.arange(size))
    return found


def work(process: int, processes: int, store: str, size: int, repeat: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=process, world_size=processes)
    result = [
        ranked(batches(USERS, process, processes, size, False)),
        scored(batches(ROWS, process, processes, size, repeat)),
    ]
    torch.save(result, f"{store}/{process}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("size", "repeat"), [(4, True), (200, False)])  # with 200 one process has nothing to do
def test_two_processes_give_the_bits_of_one(tmp_path: Path, size: int, repeat: bool) -> None:
    mp.spawn(work, (2, str(tmp_path), size, repeat), nprocs=2)
    expected = [ranked(batches(USERS, 0, 1, 7, False)), scored(batches(ROWS, 0, 1, 13, False))]
    for process in range(2):
        for found, wanted in zip(torch.load(tmp_path / f"{process}.pt"), expected, strict=True):
            for name, value in wanted.items():
                assert torch.equal(found[name].nan_to_num(-1), value.nan_to_num(-1)), name


def evaluate(process: int, processes: int, store: str, task: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}/{task}", rank=process, world_size=processes)
    evaluation = make_evaluation(store, task)
    evaluation.per_user.write_parquet(f"{store}/{task}{process}-per_user.parquet")
    evaluation.table.write_parquet(f"{store}/{task}{process}-table.parquet")
    dist.destroy_process_group()


def make_evaluation(cache: str, task: str) -> Evaluation:
    config = compose_config("train", ["dataset=synthetic", f"task={task}", f"cache={cache}", "eval_batch_size=150"])
    prepared = load_prepared(prepare(*make_data(config), Path(cache))[0])
    lightning.seed_everything(1, verbose=False)
    return make_evaluator(config, prepared).evaluate(make_model(config, prepared), "test")


@pytest.mark.parametrize("task", ["ranking", "pointwise"])
def test_an_evaluation_by_two_processes_is_that_of_one(tmp_path: Path, task: str) -> None:
    expected = make_evaluation(str(tmp_path), task)
    mp.spawn(evaluate, (2, str(tmp_path), task), nprocs=2)
    for process in range(2):
        for name, table in (("per_user", expected.per_user), ("table", expected.table)):
            assert pl.read_parquet(tmp_path / f"{task}{process}-{name}.parquet").equals(table), name
