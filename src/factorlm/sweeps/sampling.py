"""Which point to try next, as a function of the seed, the number of the trial and the trials before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from factorlm.sweeps.space import Space, shortened

Direction = Literal["maximize", "minimize"]
Sampler = Literal["tpe", "random", "grid", "nsga2"]
POPULATION = 10  # of nsga2: a quarter of a sweep of forty trials


def propose(
    sampler: Sampler, seed: int, space: Space, directions: Sequence[Direction], before: Sequence[FrozenTrial]
) -> FrozenTrial:
    """A running trial at the next point.

    The sampler sees a copy of the trials in memory, and nothing that it drew before: so a sweep that was killed goes on
    as if it had not been.

    Args:
        sampler: ``tpe``, ``random`` or ``nsga2``.
        seed: of the sweep.
        space: to choose from.
        directions: ``maximize`` or ``minimize`` for each value.
        before: the trials so far, running ones included.
    """
    drawn = _sampler(sampler, (seed * 1_000_003 + len(before)) % 2**32)
    study = optuna.create_study(directions=directions, sampler=drawn)
    study.add_trials(before)
    study.ask(space)
    trial = study.get_trials(deepcopy=False)[-1]
    return started(shortened(trial.params, space), space, trial.system_attrs)


def started(point: dict[str, object], space: Space, attributes: dict[str, object] | None = None) -> FrozenTrial:
    """A running trial at a point."""
    return create_trial(state=TrialState.RUNNING, params=point, distributions=space, system_attrs=attributes)


def _sampler(name: Sampler, seed: int) -> BaseSampler:
    if name == "random":
        return RandomSampler(seed)
    return (
        TPESampler(seed=seed, constant_liar=True)
        if name == "tpe"
        else NSGAIISampler(seed=seed, population_size=POPULATION)
    )
