"""What a tracker is: it starts a mirror of a run. The run folder stays the source of truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Row = Mapping[str, float | None]


@dataclass(frozen=True)
class Run:
    """What a mirror is told of a run as it starts.

    Args:
        folder: of the run; a resumed run has that of its earlier part.
        name: for people.
        group: of runs: the study.
        job_type: the arm, or what else the run does.
        tags: for filters.
        config: resolved, with what else was decided before the run.
    """

    folder: Path
    name: str
    group: str
    job_type: str
    tags: Sequence[str]
    config: Mapping[str, Any]


class Mirror(Protocol):
    """A run's mirror. No failure of it costs a result."""

    def log(self, history: Sequence[Row]) -> None:
        """Mirror the rows of a run's history, one an ``epoch``, that are not mirrored yet."""

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Mirror the results of a run."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Mirror a table."""

    def files(self, name: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Mirror finished files of the run folder, with what they were made from."""

    def finish(self, exit_code: int) -> None:
        """End the mirror, in bounded time; it is always called."""


class Tracker(Protocol):
    """Where runs are mirrored to."""

    def start(self, run: Run) -> Mirror:
        """Start the mirror of a run.

        Raises:
            UserError: a setting of the tracker is wrong.
        """
