"""Train several runs at once, a process each."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from factorlm.commands.processes import pool, print_to
from factorlm.commands.train import finished, run_folder, train
from factorlm.errors import TerminatedError, UserError


@dataclass(frozen=True)
class Job:
    """One run to train: a name for messages, its config as plain data, and the name of the job to start from."""

    name: str
    config: dict[str, Any]
    after: str | None = None


def train_all(jobs: list[Job], workers: int, report: Callable[[str, str], None]) -> dict[str, Path]:
    """Train jobs and return the folder of each by name; a user's mistake in one does not stop the others.

    Args:
        jobs: in the order they should start; a job waits for the one it starts from.
        workers: processes at once.
        report: called with a job's name and ``started``, ``done`` or what went wrong.

    Raises:
        UserError: names the jobs that failed, with the reason of the first; or a process was killed.
    """
    folders: dict[str, Path] = {}
    failed: dict[str, str] = {}
    waiting, running = list(jobs), dict[Future[Path], Job]()
    with pool(workers, BaseProcess.terminate) as executor:
        while waiting or running:
            for job in [job for job in waiting if job.after in folders or job.after is None][: workers - len(running)]:
                waiting.remove(job)
                config = job.config | ({"init_from": str(folders[job.after])} if job.after else {})
                report(job.name, "started")
                folder = finished(OmegaConf.create(config))
                if folder is None:
                    running[executor.submit(_work, config)] = job
                else:
                    folders[job.name] = folder
                    report(job.name, "done")
            for job in [job for job in waiting if job.after in failed]:
                waiting.remove(job)
                failed[job.name] = f"{job.after} failed, and it starts from there"
            if not running:
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    folders[job.name] = future.result()
                    report(job.name, "done")
                except BrokenProcessPool as error:
                    raise UserError(
                        f"a process that trained {job.name} was killed, perhaps for memory; lower jobs"
                    ) from error
                except UserError as error:
                    failed[job.name] = str(error)
                    report(job.name, failed[job.name])
    if failed:
        name, reason = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed, first {name}: {reason}; call again to retry them")
    return folders


def _work(content: dict[str, Any]) -> Path:
    config = OmegaConf.create(content)
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    print_to(folder / "log.txt")
    try:
        return train(config, progress=False, wait=True)
    except (KeyboardInterrupt, TerminatedError):
        os._exit(1)
