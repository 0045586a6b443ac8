"""Fit a module with Lightning and keep the best weights by one validation metric."""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, EarlyStopping, RichProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy

from factorlm.errors import UserError
from factorlm.training.checkpoint import load_checkpoint, save_checkpoint
from factorlm.training.module import PointwiseModule, RankingModule, TaskBatches, TrainBatches

TrainerFactory = Callable[..., pl.Trainer]


@dataclass(frozen=True)
class FitResult:
    """What training did: epoch of the kept weights, steps taken, and metrics by epoch."""

    best_epoch: int
    steps: int
    history: list[dict[str, float | None]]


class KeepBest(Callback):
    """Save the learned state whenever the monitored validation metric improves, and the metrics of every epoch."""

    def __init__(self, folder: Path, monitor: str) -> None:
        self._folder, self._monitor = folder, monitor
        self.history: list[dict[str, float | None]] = []
        self.best_epoch, self._best = -1, 0.0
        self.interrupted: BaseException | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Runs after the epoch's validation."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        assert isinstance(module, RankingModule | PointwiseModule)
        place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self.history.append({**place, **shown, "train/loss": module.mean_loss})  # which is logged after this
        if self._monitor not in metrics:
            raise UserError(
                "training ended before the first validation: raise trainer.max_steps, or bound epochs instead"
            )
        if math.isnan(metrics[self._monitor]):
            raise UserError(f"{self._monitor} has no value in validation: select by another metric")
        if self.best_epoch < 0 or metrics[self._monitor] > self._best:
            self.best_epoch, self._best = trainer.current_epoch, metrics[self._monitor]
            if trainer.is_global_zero:
                save_checkpoint(module.model, self._folder)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning turns an interrupt into exit status 1: remember it."""
        self.interrupted = exception


def fit(
    module: RankingModule | PointwiseModule,
    batches: TrainBatches,
    valid_batches: TaskBatches,
    trainer_factory: TrainerFactory,
    *,
    monitor: str,
    patience: int,
    folder: Path,
    logger: Logger | None,
    progress: bool,
    strategy: DDPStrategy | None = None,
) -> FitResult:
    """Train until validation stops improving, then restore the best weights.

    Args:
        module: what to train.
        batches: training rows.
        valid_batches: of validation.
        trainer_factory: a `pytorch_lightning.Trainer` but for logger and callbacks.
        monitor: validation metric that selects the weights; larger is better.
        patience: epochs without improvement before training stops.
        folder: where the checkpoint goes.
        logger: of Lightning, or None.
        progress: whether to show a progress bar.
        strategy: of several processes, of which this is one; None: this is the only one.

    Raises:
        DivergedError: the loss is not finite.
        KeyboardInterrupt: the user or the machine asked to stop.
    """
    keep = KeepBest(folder, monitor)
    callbacks: list[Any] = [EarlyStopping(monitor, mode="max", patience=patience), keep]
    callbacks += [RichProgressBar(leave=False)] if progress else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*training batches.*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*GPU available but not used.*")
        warnings.filterwarnings(
            "ignore", ".*It is recommended to use .*sync_dist=True.*"
        )  # metrics gather by themselves
        shared = {"strategy": strategy or "auto", "plugins": [LightningEnvironment()] if strategy else None}
        trainer = trainer_factory(
            logger=logger or False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,  # batches by user differ in number from epoch to epoch
            **shared,
        )
        if trainer.precision not in ("32-true", "16-mixed", "bf16-mixed"):
            raise UserError(f"trainer.precision={trainer.precision}: weights are float32; set bf16-mixed or 32-true")
        try:
            trainer.fit(module, batches, valid_batches)
        except SystemExit:
            if isinstance(keep.interrupted, KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from None
            raise
    trainer.strategy.barrier()  # until the first process has written it
    load_checkpoint(module.model, folder)
    return FitResult(keep.best_epoch, trainer.global_step, keep.history)
