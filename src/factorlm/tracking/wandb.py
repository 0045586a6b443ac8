"""Weights & Biases: runs mirrored as they go, online or in the run folder for `factorlm sync`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import wandb
import wandb.apis.public  # which wandb.init imports; late in a process it takes three times as long

from factorlm.errors import UserError
from factorlm.tracking.base import Row, Run
from factorlm.tracking.parts import epochs, is_synced, logs, mark, run_id

START_SECONDS = 30  # how long an online run waits for the server before it is kept offline
FINISH_SECONDS = 60  # how long its end waits until all has arrived
UNPROMISED = {  # settings whose names W&B may change
    "x_save_requirements": False,  # the record has the versions that matter
    "x_transaction_log_flush_interval": 1.0,  # seconds of rows that a kill -9 can cost
    "x_file_stream_retry_max": 10**6,  # it would give up after some twenty minutes, and not say so
    "x_file_transfer_retry_max": 10**6,
    "x_graphql_retry_max": 10**6,
}


@dataclass(frozen=True)
class Wandb:
    """W&B runs, whose files lie in ``wandb`` in the run folder.

    Args:
        project: of W&B.
        entity: user or team; None: the default of the account.
        mode: ``online``, ``offline`` (no account, no network; `factorlm sync` uploads later), or None: online where W&B
            knows a key.
    """

    project: str
    entity: str | None
    mode: Literal["offline", "online"] | None

    def start(self, run: Run) -> WandbMirror:
        """Start a W&B run in the background.

        Raises:
            UserError: the mode is unknown, or online without an API key.
        """
        if self.mode not in ("offline", "online", None):
            raise UserError(f"tracking.mode={self.mode!r}: it must be offline or online; tracking=none turns it off")
        keep_private(run.folder)
        if self.mode == "online" and not has_key():
            raise UserError("tracking.mode=online needs an API key: run `wandb login`, or leave tracking.mode=offline")
        return WandbMirror(self, run)


class WandbMirror:
    """One W&B run, the later part of it where the folder holds an earlier one."""

    def __init__(self, tracker: Wandb, run: Run) -> None:
        self._tracker, self._told = tracker, run
        self._logged: set[float | None] = set()
        self._history: Sequence[Row] = ()
        self._lost = False
        executor = ThreadPoolExecutor(1, "wandb")
        self._starting: Future[wandb.Run] = executor.submit(self._start)
        executor.shutdown(wait=False)

    @property
    def _run(self) -> wandb.Run:
        return self._starting.result()

    def log(self, history: Sequence[Row]) -> None:
        """Log what earlier calls and parts of the run did not; while W&B starts, leave it to a later call."""
        self._history = history
        if self._starting.done():
            self._try(self._log)

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Fill the summary, and log the metrics as a table and the learning curve as a plot."""
        self._try(self._log)
        self._try(self._summarize, values)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        self._try(lambda: self._run.log({name: _table(columns, rows)}))

    def files(self, name: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Log an artifact, which holds the files and names in its metadata what they come from."""
        self._try(self._files, name, paths, metadata)

    def finish(self, exit_code: int) -> None:
        """End the run, so that the next one in this process does not write into it."""
        self._try(self._log)
        try:
            if not self._lost:
                self._end(exit_code)
        except Exception as error:
            self._warn(error, "factorlm sync {} uploads what is missing there")
        with suppress(Exception):
            wandb.teardown()  # returns when all is on the disk; finish() only says that it should be written

    def _end(self, exit_code: int) -> None:
        run = self._run
        run.finish(exit_code)
        if not run.offline:
            mark(logs(self._told.folder)[-1])

    def _try(self, action: Callable[..., object], *arguments: object) -> None:
        """Let W&B do something; where it fails, do it in a part of the run that is kept offline."""
        if self._lost:
            return
        try:
            action(*arguments)
            return
        except Exception as error:
            self._warn(error, "the rest of the run is kept offline, and factorlm sync {} uploads it later")
        try:
            self._continue_offline()
            action(*arguments)
        except Exception as error:
            self._lost = True
            self._warn(error, "the run goes on without a mirror; its results are in {}")

    def _warn(self, error: Exception, remedy: str) -> None:
        reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        say(f"{reason}; {remedy.format(self._told.folder)}")

    def _continue_offline(self) -> None:
        with suppress(Exception):
            self._run.finish(1)
        wandb.teardown()
        self._starting = Future()
        self._starting.set_result(self._init("offline", resumed=True))

    def _log(self) -> None:
        run = self._run
        for row in self._history:
            if row["epoch"] not in self._logged:
                self._logged.add(row["epoch"])
                values = {name: value for name, value in row.items() if value is not None}
                run.log(values, step=int(values["epoch"]), commit=True)

    def _summarize(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))
        metrics = [[*name.split("/", 1), value] for name, value in values.items() if "/" in name]
        shown = {"metrics": _table(["part", "metric", "value"], metrics), "epoch": len(self._history)}
        for name in _selected(self._history, f"valid/{self._told.config.get('selection')}"):
            curve = _table(["epoch", name], [[row["epoch"], row[name]] for row in self._history])
            shown["learning_curve"] = wandb.plot.line(curve, "epoch", name, title="learning curve")
        self._run.log(shown)

    def _files(self, name: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        run = self._run
        artifact = wandb.Artifact(f"{name}-{run.id}", type=name, metadata=dict(metadata))
        for path in paths:
            entry = artifact.add_file(str(path.absolute()), policy="immutable", skip_cache=True)
            if run.offline:
                entry.local_path = path.name  # from the run folder, wherever that is when it is uploaded
        run.log_artifact(artifact)

    def _start(self) -> wandb.Run:
        folder = self._told.folder
        earlier = logs(folder)
        online = self._tracker.mode == "online" or (self._tracker.mode is None and has_key())
        if online and any(not is_synced(log) for log in earlier):
            say(f"an earlier part of the run is not uploaded yet; factorlm sync {folder} uploads both when it is done")
            online = False
        self._logged = {epoch for log in earlier for epoch in epochs(log)}
        try:
            return self._init("online" if online else "offline", bool(earlier))
        except wandb.Error as error:
            if not online:
                raise
            wandb.teardown()
            self._warn(error, "the run is kept offline, and factorlm sync {} uploads it later")
            return self._init("offline", bool(earlier))

    def _init(self, mode: Literal["online", "offline"], resumed: bool) -> wandb.Run:
        told = self._told
        settings: dict[str, Any] = {
            "console": "off",
            "disable_git": True,  # of the working directory; the config says which commit of ours it was
            "save_code": False,
            "init_timeout": START_SECONDS,
            "finish_timeout": FINISH_SECONDS,
            "finish_timeout_raises": True,
            **{name: value for name, value in UNPROMISED.items() if name in wandb.Settings.model_fields},
        }
        run = wandb.init(
            project=self._tracker.project,
            entity=self._tracker.entity,
            mode=mode,
            dir=told.folder,
            id=run_id(told.folder),
            resume="allow" if resumed else None,
            name=told.name,
            group=told.group,
            job_type=told.job_type,
            tags=list(told.tags),
            config=dict(told.config),
            settings=settings,
        )
        run.define_metric("*", step_metric="epoch")
        return run


def keep_private(folder: Path) -> None:
    """Let W&B write nowhere but into the run folder."""
    for place in ("DATA", "CACHE", "CONFIG"):
        os.environ[f"WANDB_{place}_DIR"] = str((folder / "wandb" / place.lower()).absolute())
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    (folder / "wandb").mkdir(parents=True, exist_ok=True)


def has_key() -> bool:
    """Whether W&B knows an API key."""
    return wandb.login(prompt=False, verify=False)


def say(line: str) -> None:
    """Print a line on standard error."""
    print(f"W&B: {line}", file=sys.stderr)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> wandb.Table:
    return wandb.Table(columns=list(columns), data=[list(row) for row in rows])


def _selected(history: Sequence[Row], prefix: str) -> list[str]:
    """The metric that begins with a prefix, if there is one."""
    names = [name for name in (history[-1] if history else {}) if name.startswith(prefix)]
    return sorted(names, key=len)[:1]
