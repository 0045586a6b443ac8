"""A sweep of ``factorlm train``: trials that optuna chooses, in a folder from which a killed sweep goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from factorlm.commands.study import fetch
from factorlm.commands.train import run_key
from factorlm.commands.trials import Runner
from factorlm.config.check import check_config
from factorlm.config.evaluator import selection_metric
from factorlm.errors import UserError
from factorlm.runs.identity import digest
from factorlm.runs.store import claim
from factorlm.sweeps.space import Point, Space, contains, make_space, overrides, written
from factorlm.sweeps.table import Board
from factorlm.sweeps.trials import STATES, TABLE, Plan, Trials

CHOICES = {"sampler": ("tpe", "random", "grid", "nsga2"), "cost": (None, "seconds", "parameters")}


@dataclass
class Options:
    """The keys of conf/hydra/sweeper/optuna.yaml, where they are explained."""

    params: dict[str, Any] = field(default_factory=dict)
    sampler: str = "tpe"
    n_trials: int | None = None
    n_jobs: int = 1
    seed: int = 1
    cost: str | None = None
    prune: bool = False
    start: list[str] = field(default_factory=list)


def sweep(
    options: Mapping[str, Any],
    config: DictConfig,
    loader: ConfigLoader,
    launcher: Launcher | None,
    arguments: Sequence[str],
) -> None:
    """Run the trials that are missing, print the best point and, last, the sweep's folder.

    Args:
        options: of `Options`.
        config: of Hydra and of the run, without the arguments.
        loader: composes configs.
        launcher: of the trials; None: a process of ours for each.
        arguments: overrides of the run, in which several values or an interval make a key one to search.

    Raises:
        UserError: an option or the space is wrong, the folder holds another sweep, or every trial failed.
    """
    chosen = _checked(options)
    lines = [*(f"{key}={value}" for key, value in chosen.params.items()), *arguments]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    by_key = {override.get_key_element(): override for override in parsed}
    named = by_key.pop("run.dir", None)
    searched = [override for override in by_key.values() if override.is_sweep_override()]
    fixed = [str(override.input_line) for override in by_key.values() if not override.is_sweep_override()]
    space = make_space(searched)
    if not space:
        raise UserError("the search space is empty: name one (sweep=fm), or values of a key (optimizer.lr=0.003,0.01)")
    composer = _Composer(config, loader, fixed)
    base = composer(overrides({key: _first(space[key]) for key in space}))
    check_config(base)
    fetch([base])
    plan = _plan(chosen, base, space, composer)
    wanted = chosen.n_trials or len(plan.points)
    folder = _folder(base, plan, None if named is None else str(named.value()))
    with claim(folder, wait=False):
        trials = Trials(folder, plan)
        with Board(trials, plan, wanted, chosen.n_jobs) as board:
            runner = Runner(trials, plan, wanted, chosen.n_jobs, composer.of(plan, folder), composer, board)
            if launcher is None:
                runner.by_processes()
            else:
                runner.by_launcher(launcher)
        trials.write()
    _print(trials, plan, folder)


def _checked(options: Mapping[str, Any]) -> Options:
    """Options of the right types and values."""
    merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Options), options))
    assert isinstance(merged, Options)
    for name, allowed in CHOICES.items():
        if getattr(merged, name) not in allowed:
            words = ", ".join("null" if value is None else value for value in allowed)
            raise UserError(f"hydra.sweeper.{name}={getattr(merged, name)}: it must be one of {words}")
    if merged.n_trials is None and merged.sampler != "grid":
        raise UserError("hydra.sweeper.n_trials=null: only sampler=grid has an end of its own; say how many trials")
    for name in ("n_trials", "n_jobs"):
        value = getattr(merged, name)
        if value is not None and value < 1:
            raise UserError(f"hydra.sweeper.{name}={value}: it must be 1 or more")
    if merged.seed < 0:
        raise UserError(f"hydra.sweeper.seed={merged.seed}: it must be 0 or more")
    if merged.sampler == "nsga2" and merged.cost is None:
        raise UserError("hydra.sweeper.sampler=nsga2 weighs quality against a cost: set hydra.sweeper.cost=seconds")
    if merged.prune and merged.cost:
        raise UserError("hydra.sweeper.prune=true looks at one value: leave hydra.sweeper.cost=null")
    return merged


class _Composer:
    """Composes the config of a trial."""

    def __init__(self, config: DictConfig, loader: ConfigLoader, fixed: list[str]) -> None:
        self._config, self._loader, self._fixed = config, loader, fixed

    def __call__(self, more: Sequence[str]) -> DictConfig:
        config = self.whole(more)
        with open_dict(config):
            config.pop("hydra")
        return config

    def whole(self, more: Sequence[str]) -> DictConfig:
        """With Hydra's own part."""
        return self._loader.load_sweep_config(self._config, [*self._fixed, *more])

    def of(self, plan: Plan, folder: Path) -> Callable[[FrozenTrial], list[str]]:
        """All overrides of a trial."""
        place = QuotedString(str(folder), Quote.single).with_quotes()

        def write(trial: FrozenTrial) -> list[str]:
            pruned = [f"trial.folder={place}", f"trial.number={trial.number}"] if plan.prune else []
            return [*self._fixed, *overrides(trial.params), *pruned]

        return write


def _plan(options: Options, base: DictConfig, space: Space, composer: _Composer) -> Plan:
    return Plan(
        study=f"{base.study}/{base.arm}",
        run=run_key(base),
        sampler=options.sampler,  # type: ignore[arg-type]
        seed=options.seed,
        metric=selection_metric(base),
        cost=options.cost,
        prune=options.prune,
        space=space,
        start=[_start(number, text, space, composer) for number, text in enumerate(options.start)],
    )


def _start(number: int, text: str, space: Space, composer: _Composer) -> Point:
    """The values that overrides give to the keys of a space."""
    config = composer.whole(text.split())
    choices = config.hydra.runtime.choices
    point = {}
    for key, distribution in space.items():
        name = key.lstrip("+")
        value = written(choices[name] if name in choices else OmegaConf.select(config, name))
        if not contains(distribution, value):
            raise UserError(f"hydra.sweeper.start[{number}]={text}: {key}={value} is outside the search space")
        point[key] = value
    return point


def _first(distribution: BaseDistribution) -> Any:
    """A value of a distribution, the same whenever it is asked for."""
    assert isinstance(distribution, CategoricalDistribution | IntDistribution | FloatDistribution)
    return distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low


def _folder(base: DictConfig, plan: Plan, named: str | None) -> Path:
    if named is not None:
        return Path(named).expanduser()
    return Path(str(base.run.root)).expanduser() / str(base.study) / f"{base.arm}-sweep-{digest(plan.content())}"


def _print(trials: Trials, plan: Plan, folder: Path) -> None:
    states = Counter(STATES[trial.state] for trial in trials.all)
    best = trials.best()
    if not best:
        errors = [trial.user_attrs["error"] for trial in trials.all if trial.user_attrs.get("error")]
        raise UserError(f"all {len(trials.all)} trials failed, first: {errors[0]}; they are listed in {folder / TABLE}")
    print(f"{len(trials.all)} trials: {', '.join(f'{number} {state}' for state, number in states.items())}")
    names = [plan.metric, *([plan.cost] if plan.cost else [])]
    for trial in best:
        values = " ".join(f"{name} {value:.4f}" for name, value in zip(names, trial.values, strict=True))
        print(f"best: trial {trial.number}, {values}\n  {' '.join(overrides(trial.params))}")
    print(folder)
