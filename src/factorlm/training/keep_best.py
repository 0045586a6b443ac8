"""Keep the best weights, and the metrics of every epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from factorlm.assets import write_atomically
from factorlm.errors import UserError
from factorlm.runs.store import HISTORY
from factorlm.training.checkpoint import save_checkpoint
from factorlm.training.module import PointwiseModule, RankingModule

Log = Callable[[Sequence[Mapping[str, float | None]]], None]  # takes the metrics of all epochs so far


class KeepBest(Callback):
    """Save the learned state whenever the monitored validation metric improves, and the metrics of every epoch.

    Args:
        folder: of the run; weights go to ``checkpoint``, the metrics of an epoch to a line of ``history.jsonl``.
        monitor: the metric; larger is better.
        log: called after each epoch, or None.
    """

    def __init__(self, folder: Path, monitor: str, log: Log | None) -> None:
        self._folder, self._monitor, self._log = folder, monitor, log
        self.history: list[dict[str, float | None]] = []
        self.best_epoch, self._best = -1, 0.0

    def state_dict(self) -> dict[str, Any]:
        """What it knows so far."""
        return {"history": self.history, "best_epoch": self.best_epoch, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Know what another knew."""
        self.history, self.best_epoch, self._best = state["history"], state["best_epoch"], state["best"]

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
                save_checkpoint(module.model, self._folder / "checkpoint")
        if trainer.is_global_zero:
            lines = [json.dumps(epoch) + "\n" for epoch in self.history]
            write_atomically(self._folder / HISTORY, "".join(lines).encode())
        if self._log is not None:
            self._log(self.history)
