"""The LightningModules: they know losses, batches and validation, and no architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from factorlm.errors import UserError
from factorlm.evaluation.base import Catalogue, share
from factorlm.evaluation.pointwise import RowBatch, RowTask
from factorlm.evaluation.ranking import QueryBatch, RankingTask, batch_scores
from factorlm.heads.base import Terms
from factorlm.metrics.pointwise import PointwiseMetrics
from factorlm.metrics.ranking import RankingMetrics
from factorlm.models.recommender import Recommender
from factorlm.objectives.base import Objective, PointwiseObjective

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


class _Module(pl.LightningModule):
    """What both tasks share: the loss must stay finite, and one optimizer moves everything trainable."""

    def __init__(self, model: Recommender, optimizer: OptimizerFactory) -> None:
        super().__init__()
        self.model = model
        self._optimizer = optimizer
        self._catalogue: Catalogue | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer over everything trainable."""
        return self._optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])

    def _logged(self, loss: Tensor, rows: int) -> Tensor:
        if not loss.isfinite():
            raise UserError(f"the loss is {loss.item()} at step {self.global_step}: lower optimizer.lr")
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=rows)
        return loss

    def _log_valid(self, metrics: RankingMetrics | PointwiseMetrics, suffix: str) -> None:
        self.log_dict({f"valid/{name}{suffix}": value for name, value in metrics.compute().items()})
        metrics.reset()
        self._catalogue = None


class RankingModule(_Module):
    """Train a recommender on positive pairs and validate it by ranking.

    Args:
        model: the recommender.
        objective: the loss.
        optimizer: maps the trainable parameters to an optimizer.
        metrics: of validation, logged as ``valid/<name>``.
        train_items: [I] items that occur in training: the candidates of the full softmax, the pool of negatives.
        valid_task: who is ranked against whom in validation.
        seed: of the negatives.
    """

    train_items: Tensor

    def __init__(
        self,
        model: Recommender,
        objective: Objective,
        optimizer: OptimizerFactory,
        metrics: RankingMetrics,
        train_items: Tensor,
        valid_task: RankingTask,
        seed: int,
    ) -> None:
        super().__init__(model, optimizer)
        self.valid_metrics = metrics
        self._objective = objective
        self.register_buffer("train_items", train_items, persistent=False)
        self._valid_task = valid_task
        self._generator = torch.Generator().manual_seed(seed)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch of positive pairs, users [B] and items [B]."""
        users, items = batch
        user = self.model.user_terms(users)
        if self._objective.num_negatives is None:
            pool = self.model.item_terms(self.train_items)
            place = torch.searchsorted(self.train_items, items)
            item = Terms(pool.linear[place], pool.factors[place])
            candidates = self.model.cross_scores(user, pool)
        else:
            drawn = torch.randint(len(self.train_items), (self._objective.num_negatives,), generator=self._generator)
            negatives = self.train_items[drawn.to(self.device)]
            item = self.model.item_terms(items)
            candidates = self.model.cross_scores(user, self.model.item_terms(negatives))
            candidates = candidates.masked_fill(negatives == items.unsqueeze(1), -torch.inf)
        loss = self._objective(self.model.pair_scores(user, item), candidates) + self.model.penalty(user, item)
        return self._logged(loss, len(users))

    def on_validation_epoch_start(self) -> None:
        """Encode users and candidates once."""
        task = self._valid_task
        self._catalogue = self.model.catalogue(task.users.to(self.device), task.candidates.to(self.device))

    def validation_step(self, batch: QueryBatch, batch_idx: int) -> None:
        """Rank the candidates of a batch of questions."""
        assert self._catalogue is not None
        scores = batch_scores(self._catalogue, batch)
        self.valid_metrics.update(batch.queries, batch.users, scores, batch.rows, batch.columns, batch.grades)

    def on_validation_epoch_end(self) -> None:
        """Log the means."""
        self._log_valid(self.valid_metrics, self._valid_task.suffix)


class PointwiseModule(_Module):
    """Train a recommender on labelled rows and validate it on labelled rows.

    Args:
        model: the recommender; its scores are logits.
        objective: the loss.
        optimizer: maps the trainable parameters to an optimizer.
        metrics: of validation, logged as ``valid/<name>``.
        valid_task: the rows of validation.
    """

    def __init__(
        self,
        model: Recommender,
        objective: PointwiseObjective,
        optimizer: OptimizerFactory,
        metrics: PointwiseMetrics,
        valid_task: RowTask,
    ) -> None:
        super().__init__(model, optimizer)
        self.valid_metrics = metrics
        self._objective = objective
        self._valid_task = valid_task

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch of rows: users, items and labels [B]."""
        users, items, labels = batch
        user, item = self.model.user_terms(users), self.model.item_terms(items)
        loss = self._objective(self.model.pair_scores(user, item), labels) + self.model.penalty(user, item)
        return self._logged(loss, len(users))

    def on_validation_epoch_start(self) -> None:
        """Encode users and items once."""
        task = self._valid_task
        self._catalogue = self.model.catalogue(task.users.to(self.device), task.items.to(self.device))

    def validation_step(self, batch: RowBatch, batch_idx: int) -> None:
        """Score a batch of rows."""
        assert self._catalogue is not None
        scores = self._catalogue.pairs(batch.users, batch.items)
        self.valid_metrics.update(batch.rows, self._valid_task.users[batch.users.cpu()], batch.labels, scores)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_valid(self.valid_metrics, "")


class TrainBatches:
    """Training rows in batches, in an order that depends only on seed and epoch.

    Args:
        columns: [n] each: users and items, and labels for a pointwise task.
        size: rows of a batch; the last may have fewer.
        seed: of the order.
    """

    def __init__(self, columns: tuple[Tensor, ...], size: int, seed: int) -> None:
        self._columns, self._size, self._seed = columns, size, seed
        self._epoch = 0

    def __len__(self) -> int:
        return -(-len(self._columns[0]) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        self._epoch += 1
        for rows in torch.randperm(len(self._columns[0]), generator=generator).split(self._size):
            yield tuple(column[rows] for column in self._columns)


class Task(Protocol):
    """What is validated: a `RankingTask` or a `RowTask`."""

    def batches(self, size: int) -> Iterator[Any]:
        """Batches of this process."""
        ...

    def __len__(self) -> int:
        """Questions or rows."""
        ...


class TaskBatches:
    """Validation in batches, as Lightning wants them: an iterable with a length."""

    def __init__(self, task: Task, size: int) -> None:
        self._task, self._size = task, size

    def __len__(self) -> int:
        return len(share(len(self._task), self._size))

    def __iter__(self) -> Iterator[Any]:
        return self._task.batches(self._size)
