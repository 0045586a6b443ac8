"""The LightningModule: it knows losses, batches and validation, and no architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from factorlm.errors import UserError
from factorlm.evaluation.ranking import Catalogue, RankingTask, UserBatch, batch_scores
from factorlm.heads.base import Terms
from factorlm.metrics.ranking import RankingMetrics
from factorlm.models.recommender import Recommender
from factorlm.objectives.base import Objective

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


class RecommenderModule(pl.LightningModule):
    """Train a recommender on positive pairs and validate it by full ranking.

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
        super().__init__()
        self.model = model
        self.valid_metrics = metrics
        self._objective = objective
        self._optimizer = optimizer
        self.register_buffer("train_items", train_items, persistent=False)
        self._valid_task = valid_task
        self._generator = torch.Generator().manual_seed(seed)
        self._catalogue: Catalogue | None = None

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
        if not loss.isfinite():
            raise UserError(f"the loss is {loss.item()} at step {self.global_step}: lower optimizer.lr")
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(users))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Encode the candidates once."""
        self._catalogue = self.model.catalogue(self._valid_task.candidates.to(self.device))

    def validation_step(self, batch: UserBatch, batch_idx: int) -> None:
        """Rank all candidates for a batch of users."""
        assert self._catalogue is not None
        self.valid_metrics.update(batch.users, batch_scores(self._catalogue, batch), batch.rows, batch.columns)

    def on_validation_epoch_end(self) -> None:
        """Log the means."""
        self.log_dict({f"valid/{name}": value for name, value in self.valid_metrics.compute().items()})
        self.valid_metrics.reset()
        self._catalogue = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer over everything trainable."""
        return self._optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])


class PairBatches:
    """Training pairs in batches, in an order that depends only on seed and epoch.

    Args:
        users, items: [n] index pairs.
        size: rows of a batch; the last may have fewer.
        seed: of the order.
    """

    def __init__(self, users: Tensor, items: Tensor, size: int, seed: int) -> None:
        self._users, self._items, self._size, self._seed = users, items, size, seed
        self._epoch = 0

    def __len__(self) -> int:
        return -(-len(self._users) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        self._epoch += 1
        for rows in torch.randperm(len(self._users), generator=generator).split(self._size):
            yield self._users[rows], self._items[rows]


class TaskBatches:
    """Validation users in batches, as Lightning wants them: an iterable with a length."""

    def __init__(self, task: RankingTask, size: int) -> None:
        self._task, self._size = task, size

    def __len__(self) -> int:
        return -(-len(self._task.users) // self._size)

    def __iter__(self) -> Iterator[Any]:
        return self._task.batches(self._size)
