"""Run the trials of a sweep: each in a process of its own, or in batches through a launcher."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from factorlm.commands.processes import begin, print_to
from factorlm.commands.train import run_folder, train
from factorlm.errors import PrunedError, TerminatedError, UserError
from factorlm.runs.record import read_record
from factorlm.sweeps.table import Board
from factorlm.sweeps.trials import Outcome, Plan, Trials


@dataclass(frozen=True)
class Runner:
    """What it takes to run trials.

    Args:
        trials: where their outcomes go.
        plan: of the sweep.
        wanted: trials in all.
        workers: at once.
        overrides: of a trial.
        compose: the config of overrides.
        board: what people see.
    """

    trials: Trials
    plan: Plan
    wanted: int
    workers: int
    overrides: Callable[[FrozenTrial], list[str]]
    compose: Callable[[Sequence[str]], DictConfig]
    board: Board

    def by_processes(self) -> None:
        """Run each trial in a process, as long as memory lasts for one more; where one ends, the next begins."""
        running: dict[Connection, tuple[int, Path, BaseProcess, float]] = {}
        largest, todo = 0, self._todo()
        try:
            while True:
                while len(running) < self.workers and (not running or _available_mb() > largest):
                    trial = next(todo, None)
                    if trial is None:
                        break
                    folder, config = self._placed(trial)
                    process, answer = begin(_train, OmegaConf.to_container(config, resolve=True))
                    running[answer] = trial.number, folder, process, time.monotonic()
                if not running:
                    return
                ready = wait(list(running))
                for answer in [one for one in running if one in ready]:
                    number, folder, process, started = running.pop(answer)
                    error = _read(answer, process)
                    self._end(number, folder, error, time.monotonic() - started)
                    largest = max(largest, (read_record(folder) or {}).get("peak_memory_mb", 0))
        except BaseException:
            for _, _, process, _ in running.values():
                process.terminate()
            raise
        finally:
            for _, _, process, _ in running.values():
                process.join()

    def by_launcher(self, launcher: Launcher) -> None:
        """Run batches of trials through one of Hydra's launchers."""
        todo = self._todo()
        while batch := list(islice(todo, self.workers)):
            folders = [self._placed(trial)[0] for trial in batch]
            started = time.monotonic()
            errors = _launched(launcher, [self.overrides(trial) for trial in batch], batch[0].number)
            for trial, folder, error in zip(batch, folders, errors, strict=True):
                self._end(trial.number, folder, error, time.monotonic() - started)

    def _todo(self) -> Iterator[FrozenTrial]:
        """Trials that a kill left without an outcome, and then new ones."""
        yield from self.trials.running()
        while len(self.trials.all) < self.wanted and (trial := self.trials.next()):
            yield trial

    def _placed(self, trial: FrozenTrial) -> tuple[Path, DictConfig]:
        config = self.compose(self.overrides(trial))
        folder = run_folder(config)
        self.trials.place(trial.number, folder)
        self.trials.write()
        self.board.begin(trial.number)
        return folder, config

    def _end(self, number: int, folder: Path, error: str | None, seconds: float) -> None:
        outcome = _outcome(self.plan, folder, error, seconds)
        self.trials.end(number, outcome)
        self.board.end(number, outcome)


def _train(content: dict[str, Any]) -> str | None:
    """Train in this process; what went wrong, if anything."""
    config = OmegaConf.create(content)
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    print_to(folder / "log.txt")
    try:
        train(config, progress=False, wait=True)
    except PrunedError:
        return None
    except UserError as error:
        return str(error)
    except (KeyboardInterrupt, TerminatedError):
        os._exit(1)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}; see {folder / 'log.txt'}"
    return None


def _read(answer: Connection, process: BaseProcess) -> str | None:
    """What a process said last, or how it died."""
    try:
        error: str | None = answer.recv()
    except EOFError:
        process.join()
        return f"its process ended with exit code {process.exitcode}, perhaps for want of memory: lower n_jobs"
    process.join()
    return error


def _launched(launcher: Launcher, overrides: list[list[str]], number: int) -> list[str | None]:
    """What went wrong in each job of a launcher, if anything."""
    try:
        return [_mistake(job) for job in launcher.launch(overrides, number)]
    except Exception as error:  # one of them was lost; what became of the others is in their folders
        return [f"{type(error).__name__}: {error}"] * len(overrides)


def _mistake(job: JobReturn) -> str | None:
    result = job._return_value
    if isinstance(result, PrunedError):
        return None
    if job.status is JobStatus.FAILED:
        return f"{type(result).__name__}: {result}"
    return str(result) if isinstance(result, UserError) else None


def _outcome(plan: Plan, folder: Path, error: str | None, seconds: float) -> Outcome:
    """What a run folder says of a trial."""
    record = read_record(folder) or {}
    status = record.get("status")
    if status == "done":
        value = record["metrics"].get(plan.metric)
        if value is None:
            return Outcome(TrialState.FAIL, None, seconds, f"{plan.metric} has no value: select by another metric")
        costs = {"seconds": record["seconds"]["train"], "parameters": record["parameters"]["trainable"]}
        values = [float(value), *([float(costs[plan.cost])] if plan.cost else [])]
        return Outcome(TrialState.COMPLETE, values, record["seconds"]["total"])
    if status == "pruned" and error is None:
        return Outcome(TrialState.PRUNED, None, seconds)
    return Outcome(TrialState.FAIL, None, seconds, error or record.get("error") or f"{folder} holds no finished run")


def _available_mb() -> float:
    return float(psutil.virtual_memory().available) / 2**20
