"""Train several runs at once, a process each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from factorlm.commands.processes import pool, print_to
from factorlm.commands.train import finished, run_folder, train
from factorlm.errors import TerminatedError, UserError


@dataclass(frozen=True)
class Job:
    """One run to train.

    Attributes:
        name: for messages.
        config: as plain data.
        after: names of the jobs, by key of the config that takes their folders: one, or several.
    """

    name: str
    config: dict[str, Any]
    after: Mapping[str, str | list[str]] = field(default_factory=dict)

    @property
    def needs(self) -> list[str]:
        """Names of all jobs that must be done before."""
        return [name for names in self.after.values() for name in ([names] if isinstance(names, str) else names)]

    def placed(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        """The config with the folders of the jobs before."""
        config = OmegaConf.create(self.config)
        for key, names in self.after.items():
            found = str(folders[names]) if isinstance(names, str) else [str(folders[name]) for name in names]
            OmegaConf.update(config, key, found)
        content = OmegaConf.to_container(config)
        assert isinstance(content, dict)
        return {str(key): value for key, value in content.items()}


def train_all(jobs: list[Job], workers: int, report: Callable[[str, str], None]) -> dict[str, Path]:
    """Train jobs and return the folder of each by name; a user's mistake in one does not stop the others.

    Args:
        jobs: in the order they should start; a job waits for those it needs.
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
            for job in [job for job in waiting if folders.keys() >= set(job.needs)][: workers - len(running)]:
                waiting.remove(job)
                config = job.placed(folders)
                report(job.name, "started")
                folder = finished(OmegaConf.create(config))
                if folder is None:
                    running[executor.submit(_work, config)] = job
                else:
                    folders[job.name] = folder
                    report(job.name, "done")
            for job in [job for job in waiting if failed.keys() & set(job.needs)]:
                waiting.remove(job)
                failed[job.name] = f"{next(name for name in job.needs if name in failed)} failed, whose run it needs"
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
