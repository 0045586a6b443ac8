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

from factorlm.backbones.adapter import Lora
from factorlm.backbones.store import hidden_states
from factorlm.backbones.tiny import TinyBackbone
from factorlm.config.build import make_data
from factorlm.config.compose import compose_config
from factorlm.config.evaluator import make_evaluator
from factorlm.config.model import make_model
from factorlm.data.prepared import load_prepared, prepare
from factorlm.evaluation.base import Evaluation
from factorlm.metrics.pointwise import PointwiseMetrics
from factorlm.metrics.ranking import BeyondMetrics, RankingMetrics
from factorlm.metrics.ranks import top_scores
from factorlm.models.fields import AdaptedVectors
from factorlm.training.strategies import divide

USERS, ITEMS, ROWS = 31, 80, 101
TEXTS = ["Toy Story (1995)", "Up", "Heat (1995)", "A very long title"]
SHARES = [[0, 3, 1, 2], [1]]


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ranking", "pointwise"])
def test_an_evaluation_by_two_processes_is_that_of_one(tmp_path: Path, task: str) -> None:
    expected = make_evaluation(str(tmp_path), task)
    mp.spawn(evaluate, (2, str(tmp_path), task), nprocs=2)
    for process in range(2):
        for name, table in (("per_user", expected.per_user), ("table", expected.table)):
            assert pl.read_parquet(tmp_path / f"{task}{process}-{name}.parquet").equals(table), name


def vectors_of(cache: Path) -> AdaptedVectors:
    backbone = TinyBackbone("tiny", 4, 16, 0, "mean", 64)
    encoder = backbone.load(cache)
    tokens, states, offsets = hidden_states(backbone, encoder, TEXTS, 2, cache)
    torch.manual_seed(0)
    Lora(rank=2, alpha=4, num_layers=2, targets=None, gradient_checkpointing=True).attach(encoder)
    return AdaptedVectors(encoder, tokens, states, offsets, 2, batch_texts=1)


def read(vectors: AdaptedVectors, texts: list[int]) -> dict[str, torch.Tensor]:
    found = vectors(torch.tensor(texts, dtype=torch.int64))
    found.square().sum().backward()
    gradients = {name: value.grad for name, value in vectors.named_parameters() if value.requires_grad}
    return {"vectors": found.detach(), **{name: value for name, value in gradients.items() if value is not None}}


def divided(process: int, processes: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=process, world_size=processes)
    vectors = vectors_of(Path(store))
    divide(vectors, "cpu")
    frozen = [value for value in vectors.encoder.layers.parameters() if not value.requires_grad]
    assert sum(value.to_local().numel() for value in frozen) < 0.6 * sum(value.numel() for value in frozen)  # type: ignore[operator]
    torch.save(read(vectors, SHARES[process]), f"{store}/{process}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_divided_layers_give_what_whole_ones_give(tmp_path: Path) -> None:
    """Also where processes have different numbers of texts: all take part in putting a layer together."""
    for process, texts in enumerate(SHARES):
        torch.save(read(vectors_of(tmp_path), texts), tmp_path / f"expected{process}.pt")
    mp.spawn(divided, (2, str(tmp_path)), nprocs=2)
    for process in range(2):
        found, expected = (torch.load(tmp_path / f"{name}{process}.pt") for name in ("", "expected"))
        assert len(found) == len(expected)
        for name, value in expected.items():
            assert torch.allclose(found[name], value, atol=1e-6), name
