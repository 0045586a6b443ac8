"""The trials of a sweep: a journal that survives a kill at any moment, and a table of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from factorlm.errors import UserError
from factorlm.runs.record import write_json
from factorlm.sweeps.journal import NAME, open_journal
from factorlm.sweeps.sampling import Direction, Sampler, propose, started
from factorlm.sweeps.space import Point, Space, describe, grid

TABLE = "sweep.json"
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class Plan:
    """What determines the trials of a sweep, but for how many there are.

    Args:
        study: name for people.
        run: key of the run with the keys of the space as they are without the sweep.
        sampler: how points are chosen.
        seed: of the sampler.
        metric: that is maximized.
        cost: ``seconds`` or ``parameters``, minimized beside the metric, or None.
        prune: whether hopeless trials are stopped.
        space: the distribution of each key.
        start: points to try first.
    """

    study: str
    run: str
    sampler: Sampler
    seed: int
    metric: str
    cost: str | None
    prune: bool
    space: Space
    start: list[Point] = field(default_factory=list)

    @property
    def directions(self) -> list[Direction]:
        """Of each value of a trial."""
        return ["maximize", "minimize"] if self.cost else ["maximize"]

    @property
    def points(self) -> list[Point]:
        """What is tried first, whatever comes of it."""
        return self.start + [point for point in self._grid if point not in self.start]

    @property
    def _grid(self) -> list[Point]:
        return grid(self.space) if self.sampler == "grid" else []

    def content(self) -> dict[str, Any]:
        """As plain data."""
        space = {key: describe(distribution) for key, distribution in sorted(self.space.items())}
        return {**vars(self), "space": space}


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: its state, its values where it is complete, seconds, and what went wrong."""

    state: TrialState
    values: list[float] | None
    seconds: float
    error: str | None = None


class Trials:
    """The trials in a sweep's folder, which one process at a time may write.

    Args:
        folder: of the sweep.
        plan: which must be that of the trials found there.

    Raises:
        UserError: the folder holds a sweep with another plan.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        self._storage = open_journal(folder)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=NAME,
            directions=plan.directions,
            sampler=RandomSampler(0),  # unused: `propose` chooses
            load_if_exists=True,
        )
        content = json.loads(json.dumps(plan.content()))
        found = self._study.user_attrs.get("plan")
        if found is None:
            self._study.set_user_attr("plan", content)
        elif found != content:
            raise UserError(f"run.dir={folder} holds another sweep: {_difference(found, content)}; name another folder")

    @property
    def all(self) -> list[FrozenTrial]:
        """Every trial by number."""
        return self._study.get_trials(deepcopy=False)

    def running(self) -> list[FrozenTrial]:
        """Trials without an outcome."""
        return [trial for trial in self.all if trial.state is TrialState.RUNNING]

    def next(self) -> FrozenTrial | None:
        """Begin a trial at the next point; None where a grid is at its end."""
        plan, number = self._plan, len(self.all)
        if number < len(plan.points):
            trial = started(plan.points[number], plan.space)
        elif plan.sampler == "grid":
            return None
        else:
            trial = propose(plan.sampler, plan.seed, plan.space, plan.directions, self.all)
        self._study.add_trial(trial)  # one line of the journal: there is no half of it
        return self.all[number]

    def place(self, number: int, folder: Path) -> None:
        """Note the run folder of a trial."""
        self._note(number, folder=str(folder))

    def end(self, number: int, outcome: Outcome) -> None:
        """Note what came of a trial; its state is written last."""
        self._note(number, seconds=round(outcome.seconds, 2), error=outcome.error)
        self._study.tell(number, outcome.values, outcome.state)
        self.write()

    def _note(self, number: int, **values: Any) -> None:
        trial = self.all[number]
        for key, value in values.items():
            if trial.user_attrs.get(key) != value:
                self._storage.set_trial_user_attr(trial._trial_id, key, value)

    def best(self) -> list[FrozenTrial]:
        """The best trial, or with a cost those that none beats in both, the best metric first."""
        complete = [trial for trial in self.all if trial.state is TrialState.COMPLETE]
        if not complete:
            return []
        if self._plan.cost is None:
            return [max(complete, key=lambda trial: trial.values[0])]
        return sorted(self._study.best_trials, key=lambda trial: -trial.values[0])

    def write(self) -> None:
        """Write the table."""
        write_json(self._folder / TABLE, self.table())

    def table(self) -> dict[str, Any]:
        """The sweep as plain data."""
        plan = self._plan.content()
        shared = {key: plan[key] for key in ("study", "sampler", "seed", "metric", "space")}
        return {**shared, "directions": self._plan.directions, "trials": [_row(trial) for trial in self.all]}


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": STATES[trial.state],
        "params": trial.params,
        "values": trial.values if trial.state is TrialState.COMPLETE else None,
        **{key: trial.user_attrs.get(key) for key in ("seconds", "folder", "error")},
    }


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first setting that differs, with both values."""
    key = next(key for key in wanted if found.get(key) != wanted[key])
    if key == "run":
        return "its config, data or code differ"
    if key == "space":
        one, two = found[key], wanted[key]
        name = next(name for name in {**one, **two} if one.get(name) != two.get(name))
        return f"it searches {name} in {one.get(name)}, this one in {two.get(name)}"
    return f"it has {key}={found.get(key)}, this one {wanted[key]}"
