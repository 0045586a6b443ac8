"""The LightningModules: they know losses, batches and validation, and no architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from factorlm.errors import UserError
from factorlm.evaluation.base import share
from factorlm.evaluation.pointwise import RowBatch, RowTask
from factorlm.evaluation.ranking import QueryBatch, RankingTask, batch_scores
from factorlm.metrics.pointwise import PointwiseMetrics
from factorlm.metrics.ranking import RankingMetrics
from factorlm.models.prompted import Prompted
from factorlm.models.recommender import Recommender
from factorlm.objectives.base import PointwiseObjective, SampledObjective
from factorlm.objectives.full_softmax import FullSoftmax
from factorlm.parallel import joined, place, total, weight
from factorlm.scoring import Catalogue, Contexts
from factorlm.training.optimizers import RowAdagrad, RowAdam

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


class DivergedError(UserError):
    """The loss is not finite; ``batch`` is the place of its batch in the epoch."""

    def __init__(self, message: str, batch: int) -> None:
        super().__init__(message)
        self.batch = batch


class _Module(pl.LightningModule):
    """What both tasks share: the loss must stay finite, and one optimizer moves everything trainable."""

    model: Recommender | Prompted

    def __init__(self, model: Recommender | Prompted, optimizer: OptimizerFactory) -> None:
        super().__init__()
        self.model = model
        self._optimizer = optimizer
        self._catalogue: Catalogue | None = None
        self._loss, self._rows = 0.0, 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer over everything trainable; a row-wise one gets the table's gradient by row."""
        optimizer = self._optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        sparse = isinstance(optimizer, RowAdagrad | RowAdam)
        if sparse and isinstance(self.model, Prompted):
            raise UserError("optimizer: row-wise ones are for embedding tables, and a prompt has none: set adamw")
        if sparse and self.trainer.gradient_clip_val:
            raise UserError("trainer.gradient_clip_val: row-wise optimizers clip nothing; set optimizer=adamw")
        if sparse and self.trainer.world_size > 1:
            raise UserError("optimizer: row-wise ones train in one process: set trainer.devices=1, or optimizer=adamw")
        if isinstance(self.model, Recommender):
            self.model.table.sparse = sparse
        return optimizer

    def on_fit_start(self) -> None:
        """Give each process a dropout of its own; weights and negatives are those of one seed."""
        if self.global_rank:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_epoch_start(self) -> None:
        """Begin the mean loss of the epoch."""
        self._loss, self._rows = 0.0, 0

    def on_train_epoch_end(self) -> None:
        """Log the mean loss; once an epoch, because logging costs as much as a small step."""
        self.log("train/loss", self.mean_loss, sync_dist=True)

    def progress(self) -> dict[str, Any]:
        """What of this process, but for weights, the next batches depend on: the sums of the epoch's mean loss."""
        return {"loss": self._loss, "rows": self._rows}

    def restore(self, progress: dict[str, Any]) -> None:
        """Set what `progress` gave."""
        self._loss, self._rows = progress["loss"], progress["rows"]

    @property
    def mean_loss(self) -> float:
        """Of the rows trained in this epoch so far, by all processes."""
        return total(self._loss) / place()[1] / max(1, self._rows)

    def _in_float32(self) -> torch.autocast:
        """Scores and losses are float32, whatever trainer.precision the fields are computed in."""
        return torch.autocast(self.device.type, enabled=False)

    def _counted(self, loss: Tensor, rows: int, batch: int) -> Tensor:
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {self.global_step}: lower optimizer.lr", batch)
        if place()[1] > 1:
            assert isinstance(self.trainer.train_dataloader, TrainBatches)
            rows = len(self.trainer.train_dataloader.rows(batch))  # of all processes
        self._loss, self._rows = self._loss + value * rows, self._rows + rows
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
        train_counts: [I] rows of each.
        valid_task: who is ranked against whom in validation.
        seed: of the negatives.
    """

    model: Recommender
    train_items: Tensor
    train_counts: Tensor

    def __init__(
        self,
        model: Recommender,
        objective: FullSoftmax | SampledObjective,
        optimizer: OptimizerFactory,
        metrics: RankingMetrics,
        train_items: Tensor,
        train_counts: Tensor,
        valid_task: RankingTask,
        seed: int,
    ) -> None:
        super().__init__(model, optimizer)
        self.valid_metrics = metrics
        self._objective = objective
        self.register_buffer("train_items", train_items, persistent=False)
        self.register_buffer("train_counts", train_counts, persistent=False)
        self._valid_task = valid_task
        self._generator = torch.Generator().manual_seed(seed)

    def progress(self) -> dict[str, Any]:
        """With the generator of negatives."""
        return super().progress() | {"negatives": self._generator.get_state()}

    def restore(self, progress: dict[str, Any]) -> None:
        """Set what `progress` gave."""
        super().restore(progress)
        self._generator.set_state(progress["negatives"])

    def training_step(self, batch: tuple[Contexts, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch of positive pairs, contexts [B] and items [B]."""
        contexts, items = batch
        if isinstance(self._objective, FullSoftmax):
            user, pool = self.model.sides(contexts, self.train_items)
            place = torch.searchsorted(self.train_items, items)
            with self._in_float32():
                loss, item = self._objective(*self.model.matrices(user, pool), place), pool.take(place)
        else:
            drawn, log_rate = self._drawn(items, self._objective)
            user, both = self.model.sides(contexts, torch.cat([items, drawn]))
            rows = torch.arange(len(items) + len(drawn), device=self.device).split([len(items), len(drawn)])
            item = both.take(rows[0])
            with self._in_float32():
                if self.model.factorized:
                    users, columns = self.model.matrices(user, both)
                    positive, candidates = (users * columns[rows[0]]).sum(1), users @ columns[rows[1]].T
                else:
                    positive = self.model.pair_scores(user, item)
                    candidates = self.model.cross_scores(user, both.take(rows[1]))
                candidates = candidates.masked_fill(drawn == items.unsqueeze(1), -torch.inf)
                loss = self._objective(positive, candidates, log_rate)
        penalty = self.model.penalty(user, item) * weight(len(items))
        return self._counted(loss + penalty, len(items), batch_idx)

    def _drawn(self, items: Tensor, objective: SampledObjective) -> tuple[Tensor, Tensor]:
        """Negatives [C] of a step and the log of how often each was expected to be drawn [C]."""
        counts, number = self.train_counts, objective.num_negatives
        if objective.negatives == "uniform":
            places = torch.randint(len(counts), (number,), generator=self._generator).to(self.device)
            return self.train_items[places], torch.full_like(places, number / len(counts), dtype=torch.float32).log()
        share = counts / counts.sum()
        if objective.negatives == "popularity":
            places = torch.multinomial(share.cpu(), number, True, generator=self._generator).to(self.device)
            return self.train_items[places], (number * share[places]).log()
        items = joined(items)
        return items, (len(items) * share[torch.searchsorted(self.train_items, items)]).log()

    def on_validation_epoch_start(self) -> None:
        """Encode users and candidates once."""
        task = self._valid_task
        self._catalogue = self.model.catalogue(task.contexts.to(self.device), task.candidates.to(self.device))

    def validation_step(self, batch: QueryBatch, batch_idx: int) -> None:
        """Rank the candidates of a batch of questions."""
        assert self._catalogue is not None
        with self._in_float32():
            scores = batch_scores(self._catalogue, batch)
        self.valid_metrics.update(batch.queries, batch.users, scores, batch.rows, batch.columns, batch.grades)

    def on_validation_epoch_end(self) -> None:
        """Log the means."""
        self._log_valid(self.valid_metrics, self._valid_task.suffix)


class PointwiseModule(_Module):
    """Train a model on labelled rows and validate it on labelled rows.

    Args:
        model: a recommender or a prompted language model; its scores are logits.
        objective: the loss.
        optimizer: maps the trainable parameters to an optimizer.
        metrics: of validation, logged as ``valid/<name>``.
        valid_task: the rows of validation.
    """

    def __init__(
        self,
        model: Recommender | Prompted,
        objective: PointwiseObjective,
        optimizer: OptimizerFactory,
        metrics: PointwiseMetrics,
        valid_task: RowTask,
    ) -> None:
        super().__init__(model, optimizer)
        self.valid_metrics = metrics
        self._objective = objective
        self._valid_task = valid_task

    def training_step(self, batch: tuple[Contexts, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch of rows: contexts, items and labels [B]."""
        contexts, items, labels = batch
        scores, penalty = self.model.penalized(contexts, items)
        with self._in_float32():
            loss = self._objective(scores.float(), labels) + penalty * weight(len(items))
        return self._counted(loss, len(items), batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Encode users and items once."""
        task = self._valid_task
        self._catalogue = self.model.catalogue(task.contexts.to(self.device), task.items.to(self.device))

    def validation_step(self, batch: RowBatch, batch_idx: int) -> None:
        """Score a batch of rows."""
        assert self._catalogue is not None
        with self._in_float32():
            scores = self._catalogue.pairs(batch.places, batch.items)
        users = self._valid_task.contexts.users[batch.places.cpu()]
        self.valid_metrics.update(batch.rows, users, batch.labels, scores)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_valid(self.valid_metrics, "")


class TrainBatches:
    """Training rows in batches, in an order that depends only on seed and epoch.

    In a process group, each process yields its share of each batch, and the whole of one with too few rows to share.

    Args:
        contexts: [n] of the rows.
        columns: [n] each: items, and labels for a pointwise task.
        size: rows of a batch, over all processes; the last may have fewer.
        seed: of the order.
        by_user: keep the rows of a user together, so that batches have about ``size`` rows.
    """

    def __init__(
        self, contexts: Contexts, columns: tuple[Tensor, ...], size: int, seed: int, *, by_user: bool = False
    ) -> None:
        self._contexts, self._columns, self._size, self._seed = contexts, columns, size, seed
        self._epoch = 0
        self._start = (0, 0)
        self._begun: Sequence[Tensor] = ()
        self._users = contexts.users.unique(return_inverse=True)[1] if by_user else None

    def start(self, epoch: int, batch: int) -> None:
        """Begin with a batch of an epoch: that epoch has only the batches from there on."""
        self._epoch, self._start = epoch, (epoch, batch)

    def __len__(self) -> int:
        if self._users is None:
            return -(-len(self._contexts) // self._size) - self._skipped(self._epoch)
        return len(self._batches(self._epoch))

    def _skipped(self, epoch: int) -> int:
        """Batches of an epoch that were trained before."""
        first, batch = self._start
        return batch if epoch == first else 0

    def __iter__(self) -> Iterator[tuple[Contexts | Tensor, ...]]:
        self._begun = self._batches(self._epoch)
        self._epoch += 1
        process, processes = place()
        for batch in self._begun:
            rows = batch if len(batch) < processes else batch.tensor_split(processes)[process]
            yield self._contexts[rows], *(column.index_select(0, rows) for column in self._columns)

    def rows(self, batch: int) -> Tensor:
        """Training rows in a batch of the epoch that was begun last, of all processes."""
        return self._begun[batch]

    def _batches(self, epoch: int) -> Sequence[Tensor]:
        """The rows of each batch of an epoch that is still to be trained."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        begin = self._skipped(epoch)
        if self._users is None:
            batches: Sequence[Tensor] = torch.randperm(len(self._contexts), generator=generator).split(self._size)
            return batches[begin:]
        order = torch.randperm(int(self._users.max()) + 1, generator=generator)[self._users]
        counts = order.bincount()
        batch = (counts.cumsum(0) - counts) // self._size
        sizes = torch.zeros(int(batch[-1]) + 1, dtype=torch.int64).index_add(0, batch, counts)
        batches = order.argsort(stable=True).split(sizes[sizes > 0].tolist())
        return batches[begin:]


class Task(Protocol):
    """What is validated: a `RankingTask` or a `RowTask`."""

    def batches(self, size: int) -> Iterator[Any]:
        """Batches of this process."""
        ...

    def __len__(self) -> int:
        """Questions or rows."""
        ...


class TaskBatches:
    """Validation in batches, as Lightning wants them: an iterable with a length, of at least one in each process."""

    def __init__(self, task: Task, size: int) -> None:
        self._task, self._most = task, size

    @property
    def _size(self) -> int:
        return min(self._most, len(self._task) // place()[1])

    def __len__(self) -> int:
        if not self._size:
            raise UserError(f"trainer.devices={place()[1]}: there is too little to validate for so many; set 1")
        return len(share(len(self._task), self._size))

    def __iter__(self) -> Iterator[Any]:
        return self._task.batches(self._size)
