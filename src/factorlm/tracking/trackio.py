"""Trackio: a local dashboard over the runs of a project, kept in one database on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factorlm.errors import UserError
from factorlm.tracking.base import Row, Run

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


@dataclass(frozen=True)
class Trackio:
    """Where Trackio keeps its database.

    Args:
        project: of Trackio.
        dir: of the databases, one for each project.
    """

    project: str
    dir: str

    def start(self, run: Run) -> TrackioMirror:
        """Start a Trackio run, or go on with the one of the same key.

        Raises:
            UserError: Trackio is not installed, or is told to send runs elsewhere.
        """
        for name in REMOTE:
            if os.environ.get(name):
                raise UserError(f"{name}={os.environ[name]}: tracking=trackio stays on this machine; unset {name}")
        os.environ["TRACKIO_DIR"] = str(Path(self.dir).expanduser().absolute())
        try:
            import trackio  # noqa: F401
        except ImportError as error:
            raise UserError("tracking=trackio needs its package: pip install 'factorlm[trackio]'") from error
        return TrackioMirror(self.project, run)


class TrackioMirror:
    """One Trackio run."""

    def __init__(self, project: str, run: Run) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        name = f"{run.name}-{run.config.get('key', run.folder.name)}"
        with redirect_stdout(sys.stderr):
            self._run = trackio.init(project, name, run.group, config=dict(run.config), resume="allow", embed=False)
        last = SQLiteStorage.get_max_step_for_run(project, name)
        self._next = 0 if last is None else last + 1

    def log(self, history: Sequence[Row]) -> None:
        """Log the epochs that earlier calls, and earlier parts of the run, did not."""
        for row in history:
            epoch = int(row["epoch"] or 0)
            if epoch >= self._next:
                values = {name: value for name, value in row.items() if name != "step" and value is not None}
                self._run.log(values, step=epoch)
                self._next = epoch + 1

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Log the final metrics."""
        self._run.log({name: value for name, value in values.items() if isinstance(value, int | float)})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        import trackio

        self._run.log({name: trackio.Table(columns=list(columns), data=[list(row) for row in rows])})

    def files(self, name: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Do nothing: they are in the run folder."""

    def finish(self, exit_code: int) -> None:
        """Write what is left."""
        import trackio

        with redirect_stdout(sys.stderr):
            trackio.finish()  # type: ignore[no-untyped-call]
