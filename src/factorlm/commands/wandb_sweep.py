"""``factorlm wandb-sweep``: the search space of a sweep as the YAML that ``wandb sweep`` takes."""

from __future__ import annotations

from typing import Any

import yaml
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from factorlm.config.check import check_config
from factorlm.config.evaluator import selection_metric
from factorlm.errors import UserError
from factorlm.sweeps.space import make_space

METHODS = {"tpe": "bayes", "random": "random", "grid": "grid"}


def main(config: DictConfig) -> None:
    """Print the definition.

    Raises:
        UserError: there is no search space, or W&B has no such sampler.
    """
    check_config(config)
    print(yaml.safe_dump(definition(config, HydraConfig.get()), sort_keys=False, width=120), end="")


def definition(config: DictConfig, hydra: HydraConf) -> dict[str, Any]:
    """The sweep of a composed config and Hydra's own part of it."""
    lines = [f"{key!s}={value}" for key, value in hydra.sweeper.params.items()]
    parsed = OverridesParser.create().parse_overrides(lines)
    space = make_space(override for override in parsed if override.is_sweep_override())
    if not space:
        raise UserError("the search space is empty: name one, as sweep=fm")
    sampler = hydra.sweeper.get("sampler", "grid")
    if sampler not in METHODS:
        raise UserError(f"hydra.sweeper.sampler={sampler}: W&B has {', '.join(METHODS)}")
    given = ["${program}", "train", *hydra.overrides.task, "hydra.mode=RUN"]
    return {
        "program": "factorlm",
        "command": [*given, "tracking=wandb", "tracking.mode=online", "${args_no_hyphens}"],
        "method": METHODS[sampler],
        "metric": {"name": selection_metric(config), "goal": "maximize"},
        "parameters": {key: _parameter(distribution) for key, distribution in space.items()},
    }


def _parameter(distribution: BaseDistribution) -> dict[str, Any]:
    """A distribution in W&B's words."""
    if isinstance(distribution, CategoricalDistribution):
        return {"values": list(distribution.choices)}
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    bounds = {"min": distribution.low, "max": distribution.high}
    name = "log_uniform_values" if distribution.log else "uniform"
    return (
        {"distribution": f"q_{name}", **bounds, "q": distribution.step}
        if distribution.step
        else {"distribution": name, **bounds}
    )
