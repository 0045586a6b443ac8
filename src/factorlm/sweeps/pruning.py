"""Stop a trial whose validation metric falls behind the others'."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytorch_lightning as pl
from optuna.pruners import MedianPruner
from pytorch_lightning.callbacks import Callback

from factorlm.errors import PrunedError
from factorlm.sweeps.journal import NAME, open_journal


class Prune(Callback):
    """Report the metric of every epoch to the sweep's journal and stop below the median of the trials before.

    Args:
        folder: of the sweep.
        number: of the trial.
        monitor: validation metric; larger is better.

    Raises:
        PrunedError: in the epoch that was one too many.
    """

    def __init__(self, folder: Path, number: int, monitor: str) -> None:
        self._folder, self._number, self._monitor = folder, number, monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Runs after the epoch's validation."""
        epoch, value = trainer.current_epoch, float(trainer.callback_metrics[self._monitor])
        hopeless = trainer.is_global_zero and self._hopeless(epoch, value)
        if trainer.strategy.broadcast(hopeless):
            raise PrunedError(f"pruned after epoch {epoch}: {self._monitor}={value:.4f} is below the median of others")

    def _hopeless(self, epoch: int, value: float) -> bool:
        storage = open_journal(self._folder)
        study = optuna.load_study(study_name=NAME, storage=storage)
        trial_id = study.get_trials(deepcopy=False)[self._number]._trial_id
        storage.set_trial_intermediate_value(trial_id, epoch, value)
        return MedianPruner().prune(study, storage.get_trial(trial_id))
