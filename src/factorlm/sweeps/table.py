"""The table of a sweep's trials in a terminal, and its lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from factorlm.sweeps.trials import STATES, Outcome, Plan, Trials

ROWS = 20
ORDER = [TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]


class Board:
    """What people see of a running sweep; use it as a context.

    Args:
        trials: what is shown.
        plan: of the sweep.
        wanted: trials in all.
        workers: trials at once.
    """

    def __init__(self, trials: Trials, plan: Plan, wanted: int, workers: int) -> None:
        self._trials, self._plan, self._wanted, self._workers = trials, plan, wanted, workers
        self._begun: dict[int, float] = {}
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, transient=True, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def begin(self, number: int) -> None:
        """A trial starts."""
        self._begun[number] = time.monotonic()

    def end(self, number: int, outcome: Outcome) -> None:
        """A trial has ended."""
        self._begun.pop(number, None)
        trial = self._trials.all[number]
        if not self._console.is_terminal or outcome.error:
            what = outcome.error or f"{' '.join(_values(trial))} {' '.join(self._row(trial)[3:])}s"
            self._console.print(f"trial {number} {STATES[outcome.state]}: {what}", highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        trials = self._trials.all
        ended = [trial for trial in trials if trial.state.is_finished()]
        names = [self._plan.metric, *([self._plan.cost] if self._plan.cost else [])]
        table = Table("trial", "state", *names, *self._plan.space, "seconds", title=self._plan.study)
        for trial in sorted(trials, key=_rank)[:ROWS]:
            table.add_row(str(trial.number), STATES[trial.state], *self._row(trial)[2:])
        table.caption = f"{len(ended)} of {self._wanted} trials{self._left(ended)}"
        return table

    def _row(self, trial: FrozenTrial) -> list[str]:
        values = _values(trial) or [""] * len(self._plan.directions)
        elapsed = time.monotonic() - self._begun.get(trial.number, time.monotonic())
        seconds = f"{trial.user_attrs.get('seconds', elapsed):.1f}"
        return ["", "", *values, *(str(trial.params[key]) for key in self._plan.space), seconds]

    def _left(self, ended: Sequence[FrozenTrial]) -> str:
        if not ended:
            return ""
        mean = sum(trial.user_attrs["seconds"] for trial in ended) / len(ended)
        left = round(mean * (self._wanted - len(ended)) / self._workers)
        return f", about {left // 60}:{left % 60:02d} min left"


def _values(trial: FrozenTrial) -> list[str]:
    return [f"{value:.4g}" for value in trial.values or []] if trial.state is TrialState.COMPLETE else []


def _rank(trial: FrozenTrial) -> tuple[int, float]:
    complete = trial.state is TrialState.COMPLETE
    return ORDER.index(trial.state), -trial.values[0] if complete else -trial.number
