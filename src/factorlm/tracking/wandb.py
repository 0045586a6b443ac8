"""Weights & Biases: the only import of wandb."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from factorlm.errors import UserError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger


@dataclass(frozen=True)
class Wandb:
    """Where runs are mirrored to.

    Args:
        project: of W&B.
        entity: user or team; None: the default of the account.
        mode: ``offline`` (files in the run folder, no account, no network) or ``online``.
    """

    project: str
    entity: str | None
    mode: Literal["offline", "online"]

    def start(self, folder: Path, *, name: str, group: str, job_type: str, config: Mapping[str, Any]) -> WandbLogger:
        """Start a run that lives in ``folder/wandb`` and return Lightning's logger for it.

        Raises:
            UserError: the mode is unknown, or online without an API key.
        """
        if self.mode not in ("offline", "online"):
            raise UserError(f"tracking.mode={self.mode!r}: it must be offline or online; tracking=none turns it off")
        for place in ("DATA", "CACHE", "CONFIG"):
            os.environ[f"WANDB_{place}_DIR"] = str(folder / "wandb" / place.lower())
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        if self.mode == "online" and not wandb.api.api_key:
            raise UserError("tracking.mode=online needs an API key: run `wandb login`, or leave tracking.mode=offline")
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, console="off", init_timeout=60, finish_timeout=60)
        try:
            run = wandb.init(
                project=self.project,
                entity=self.entity,
                mode=self.mode,
                dir=folder,
                name=name,
                group=group,
                job_type=job_type,
                config=dict(config),
                settings=settings,
            )
        except wandb.Error as error:
            raise UserError(f"tracking: W&B did not start ({error}); set tracking.mode=offline") from error
        return WandbLogger(experiment=run)


def summarize(logger: WandbLogger, values: Mapping[str, Any]) -> None:
    """Put final values into the run's summary."""
    logger.experiment.summary.update(dict(values))


def log_table(logger: WandbLogger, name: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Log a table."""
    import wandb

    logger.experiment.log({name: wandb.Table(columns=[*columns], data=rows)})


def finish(logger: WandbLogger | None, exit_code: int) -> None:
    """End the run, so that the next one in this process does not write into it; a failure here costs no result."""
    import wandb

    if logger is not None:
        try:
            logger.experiment.finish(exit_code=exit_code)
            wandb.teardown()  # returns when all is on the disk; finish() only says that it should be written
        except (wandb.Error, OSError, TimeoutError) as error:
            print(f"W&B did not finish: {error}", file=sys.stderr)
