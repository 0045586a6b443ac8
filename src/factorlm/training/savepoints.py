"""What an interrupted training needs to go on as if it had never stopped, to the last bit."""

from __future__ import annotations

import io
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch import distributed as dist

from factorlm.assets import write_atomically
from factorlm.parallel import place
from factorlm.runs.store import STATE
from factorlm.training.checkpoint import assign, learned_state
from factorlm.training.keep_best import KeepBest
from factorlm.training.module import PointwiseModule, RankingModule, TrainBatches


class StoppedError(BaseException):
    """Training stopped where it was asked to."""


class Stop:
    """Within its block, the first SIGINT or SIGTERM only asks to stop; after it, the signal is delivered.

    A second signal is delivered at once. Signals that the process ignores stay ignored.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Callable[[int, Any], Any]] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if callable(before):
                try:
                    signal.signal(number, self._ask)
                except ValueError:  # not the main thread, which signals do not reach
                    break
                self._before[number] = before
        return self

    def listen(self) -> None:
        """Take the signals back from Lightning, which would end training wherever it is."""
        for number in self._before:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked is not None:
            self._before[number](number, frame)
        self.asked = number

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self.asked is not None and kind is None:
            self._before[self.asked](self.asked, None)


class SavePoints(Callback):
    """Write the state of training now and then, and go on from one.

    It is written after optimizer steps and between epochs, when ``every`` seconds have passed or a stop is asked for,
    and holds learned weights, optimizer, place in the order of the batches, random states of each process, history
    and what early stopping knows. Frozen weights come from where they came from.

    Args:
        folder: of ``state.pt``.
        batches: training rows, whose order is a function of seed and epoch.
        keep: keeps the best weights.
        early: stops early.
        every: seconds between two states.
        stop: whether to stop.
    """

    def __init__(
        self, folder: Path, batches: TrainBatches, keep: KeepBest, early: EarlyStopping, every: float, stop: Stop
    ) -> None:
        self._path = folder / STATE
        self._batches, self._keep, self._early, self._every, self._stop = batches, keep, early, every, stop
        self._state: dict[str, Any] | None = None
        self._resumed = (0, 0)  # epoch and batch
        self.earlier_seconds = 0.0  # of training, before this process
        self._begun = self._saved = time.monotonic()

    def restore(self, trainer: pl.Trainer, module: RankingModule | PointwiseModule) -> bool:
        """Take up the state on disk, if there is one, before ``trainer.fit``; whether anything is left to train."""
        if not self._path.exists():
            return True
        state = torch.load(self._path, weights_only=True)
        assign(module.model, state["weights"])
        epoch, batch = state["epoch"], state["batch"]
        self._batches.start(epoch, batch)
        loop = trainer.fit_loop
        counts = dict.fromkeys(("ready", "started", "processed", "completed"), epoch)
        loop.epoch_progress.current.load_state_dict(counts)
        steps = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        steps.ready = steps.completed = loop.epoch_loop._batches_that_stepped = state["steps"]
        self._keep.load_state_dict(state["keep"])
        self._early.load_state_dict(state["early"])
        self.earlier_seconds, self._resumed, self._state = state["seconds"], (epoch, batch), state
        return not state["ended"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give the optimizer its state back."""
        self._stop.listen()
        if self._state is not None:
            trainer.optimizers[0].load_state_dict(self._state["optimizer"])
            trainer.precision_plugin.load_state_dict(self._state["precision"])

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Before the first batch of an epoch; before the first of all, set what depends on those trained earlier."""
        if self._state is not None:
            own = self._state["processes"][place()[0]]
            module.restore(own["module"])
            _set_random_states(own["random"])
            self._state = None
        elif batch_idx == 0:
            self._reach(trainer, module, 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a batch, if the optimizer has stepped and the epoch goes on."""
        epoch, before = self._resumed
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        whole = isinstance(trainer.limit_train_batches, float) and trainer.limit_train_batches == 1.0
        validated_at_end = trainer.val_check_interval == 1.0  # else a shorter epoch would be validated elsewhere
        if stepped and whole and validated_at_end and batch_idx + 1 < trainer.num_training_batches:
            self._reach(trainer, module, batch_idx + 1 + before * (trainer.current_epoch == epoch))

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """In validation nothing is written, but it can be stopped."""
        if self._stop.asked is not None:
            raise StoppedError

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """After the last epoch."""
        self._reach(trainer, module, 0, ended=True)

    def _reach(self, trainer: pl.Trainer, module: Any, batch: int, ended: bool = False) -> None:
        """Write the state, if it is time to, where ``batch`` batches of the current epoch are trained."""
        asked = self._stop.asked is not None
        if not _agreed(asked or time.monotonic() - self._saved > self._every):
            return
        state = {
            "epoch": trainer.current_epoch,
            "batch": batch,
            "ended": ended,
            "steps": trainer.global_step,
            "weights": learned_state(module.model),
            "optimizer": trainer.optimizers[0].state_dict(),
            "precision": trainer.precision_plugin.state_dict(),
            "processes": _gathered({"module": module.progress(), "random": _random_states()}),
            "keep": self._keep.state_dict(),
            "early": self._early.state_dict(),
            "seconds": self.earlier_seconds + time.monotonic() - self._begun,
        }
        if trainer.is_global_zero:
            content = io.BytesIO()
            torch.save(state, content)
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, content.getvalue())
        self._saved = time.monotonic()
        if asked:
            raise StoppedError


def _random_states() -> dict[str, Any]:
    """States of the generators of Python, numpy and torch, as plain data and tensors."""
    numpy: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002 -- the global one, which a plugin may use
    key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    states = {
        "python": random.getstate(),
        "numpy": numpy | {"state": numpy["state"] | {"key": key}},
        "torch": torch.get_rng_state(),
    }
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_states(states: dict[str, Any]) -> None:
    numpy = states["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    random.setstate(states["python"])
    np.random.set_state(numpy | {"state": numpy["state"] | {"key": key}})  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _agreed(due: bool) -> bool:
    """What the first process says, for all."""
    if place()[1] == 1:
        return due
    answer = torch.tensor(due)
    dist.broadcast(answer, 0)
    return bool(answer)


def _gathered(states: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of each process."""
    _, processes = place()
    if processes == 1:
        return [states]
    found: list[dict[str, Any]] = [{} for _ in range(processes)]
    dist.all_gather_object(found, states)
    return found
