"""Fit a module with Lightning and keep the best weights by one validation metric."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, EarlyStopping, RichProgressBar
from pytorch_lightning.strategies import DDPStrategy

from factorlm.errors import UserError
from factorlm.training.checkpoint import load_checkpoint
from factorlm.training.keep_best import KeepBest, Log
from factorlm.training.module import PointwiseModule, RankingModule, TaskBatches, TrainBatches
from factorlm.training.savepoints import SavePoints, Stop, StoppedError

TrainerFactory = Callable[..., pl.Trainer]


@dataclass(frozen=True)
class FitResult:
    """What training did: epoch of the kept weights, steps, seconds before an interruption, and metrics by epoch."""

    best_epoch: int
    steps: int
    earlier_seconds: float
    history: list[dict[str, float | None]]


def fit(
    module: RankingModule | PointwiseModule,
    batches: TrainBatches,
    valid_batches: TaskBatches,
    trainer_factory: TrainerFactory,
    *,
    monitor: str,
    patience: int,
    folder: Path,
    save_every: float,
    log: Log | None,
    progress: bool,
    strategy: DDPStrategy | None = None,
    watch: Callback | None = None,
) -> FitResult:
    """Train until validation stops improving, then restore the best weights.

    Where the folder has the state of an interrupted training of the same module, it goes on from there.

    Args:
        module: what to train.
        batches: training rows.
        valid_batches: of validation.
        trainer_factory: a `pytorch_lightning.Trainer` but for callbacks.
        monitor: validation metric that selects the weights; larger is better.
        patience: epochs without improvement before training stops.
        folder: of the run.
        save_every: seconds between two states to go on from.
        log: called after each epoch, or None.
        progress: whether to show a progress bar.
        strategy: of several processes, of which this is one; None: this is the only one.
        watch: told of every epoch after its validation; what it raises ends training.

    Raises:
        DivergedError: the loss is not finite.
        KeyboardInterrupt: the user or the machine asked to stop.
    """
    stop, keep = Stop(), KeepBest(folder, monitor, log)
    early = EarlyStopping(monitor, mode="max", patience=patience)
    points = SavePoints(folder / "checkpoint", batches, keep, early, save_every, stop)
    watchers = [watch] if watch else []  # before the state is saved, so that none is left out where training goes on
    callbacks: list[Any] = [early, keep, *watchers, points]
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
            logger=False,
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
        if points.restore(trainer, module):
            with stop:
                try:
                    trainer.fit(module, batches, valid_batches)
                except (StoppedError, SystemExit):  # Lightning's own way to end
                    if stop.asked is None:
                        raise
    trainer.strategy.barrier()  # until the first process has written it
    load_checkpoint(module.model, folder / "checkpoint")
    return FitResult(keep.best_epoch, trainer.global_step, points.earlier_seconds, keep.history)
