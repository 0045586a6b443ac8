"""Batches of training rows: every row once an epoch, an order of seed and epoch, users whole where that is asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig

from factorlm.commands.train import train
from factorlm.runs.record import read_record
from factorlm.scoring import Contexts
from factorlm.training.module import TrainBatches

Compose = Callable[..., DictConfig]


def rows(sizes: list[int]) -> tuple[Contexts, torch.Tensor]:
    """A user with each number of rows, in a mixed order; the column numbers the rows."""
    users = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    users = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(1))]
    zeros = torch.zeros_like(users)
    return Contexts(users, zeros, zeros, zeros[:0]), torch.arange(len(users))


def test_every_row_once() -> None:
    contexts, column = rows([3, 70, 1, 8, 8, 40, 5])
    for by_user in (False, True):
        batches = TrainBatches(contexts, (column,), 16, 5, by_user=by_user)
        for _ in range(5):
            number = len(batches)
            epoch = list(batches)
            assert len(epoch) == number
            assert torch.cat([part for _, part in epoch]).sort().values.equal(column)
        again = TrainBatches(contexts, (column,), 16, 5, by_user=by_user)
        assert torch.cat([part for _, part in again]).equal(
            torch.cat([part for _, part in TrainBatches(contexts, (column,), 16, 5, by_user=by_user)])
        )


def test_users_stay_whole() -> None:
    contexts, column = rows([3, 70, 1, 8, 8, 40, 5])
    batches = list(TrainBatches(contexts, (column,), 16, 5, by_user=True))
    for user in range(7):
        assert sum(bool((part.users == user).any()) for part, _ in batches) == 1


def test_every_epoch_is_whole_and_validated(small: Compose, tmp_path: Path) -> None:
    """Batches by user differ in number from epoch to epoch; no row is left out for it, and no validation."""
    config = small(
        f"run.dir={tmp_path}/a", "encoder=mean", "batch_size=40", "trainer.max_epochs=8", "patience=8",
        "split=random", "dataset.interactions_per_user=30", "dataset.num_users=61",
    )  # fmt: skip
    record = read_record(train(config, progress=False)) or {}
    history = record["history"]
    steps = [later["step"] - earlier["step"] for earlier, later in itertools.pairwise(history)]
    assert len(set(steps)) > 1
    assert len({epoch["valid/ndcg@10"] for epoch in history}) == len(history)
