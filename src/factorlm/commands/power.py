"""``factorlm power``: how many users and seeds it takes to see an effect."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factorlm.comparison.planning import Components, users_needed, visible_effect
from factorlm.comparison.runs import run_differences
from factorlm.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig) -> None:
    """Print what varies, the effect that the runs can see, and the users needed for each number of seeds."""
    plan = plan_comparison(config)
    if config.json:
        print(json.dumps(plan))
        return
    from rich.console import Console

    from factorlm.reporting.tables import rich_table

    wanted = f"power {config.power:g}, two-sided level {config.alpha:g}"
    if plan["runs"]:
        run = plan["runs"]
        print(f"{run['arm']} minus {run['baseline']}, {config.metric}: {run['users']} users, {run['seeds']} seeds")
        print(
            f"difference {run['difference']:+.4f}; effects of {run['visible_effect']:.4f} or more are seen ({wanted})"
        )
    names = {"user_sd": "between users", "seed_sd": "between seeds", "noise_sd": "what is left"}
    print("deviation of the effect: " + ", ".join(f"{names[key]} {sd:.4f}" for key, sd in plan["components"].items()))
    rows = [
        [f"{seeds} (for that seed alone)" if seeds == 1 else str(seeds), _users(users)]
        for seeds, users in zip(plan["seeds"], plan["users"], strict=True)
    ]
    table = [["seeds", "users"], *rows]
    print(f"users needed to see {config.effect:g} ({wanted}):")
    Console().print(rich_table(table))
    if 1 in plan["seeds"]:
        print("1 seed: what is found holds for that seed alone")


def plan_comparison(config: DictConfig) -> dict[str, Any]:
    """The plan as plain data: ``components``, ``runs`` (None without), ``seeds`` and the ``users`` they need.

    Raises:
        UserError: a value is out of range, or neither runs nor deviations are given.
    """
    for key, good, rule in (
        ("effect", 0 < config.effect < math.inf, "above 0"),
        ("alpha", 0 < config.alpha < 1, "between 0 and 1"),
        ("power", config.alpha < config.power < 1, "between alpha and 1"),
        ("seeds", len(config.seeds) > 0 and min(config.seeds, default=0) > 0, "numbers of 1 or more"),
    ):
        if not good:
            raise UserError(f"{key}={config[key]}: it must be {rule}")
    deviations = {key: config[key] for key in ("user_sd", "seed_sd", "noise_sd")}
    given = [key for key, value in deviations.items() if value is not None]
    runs = None
    if config.runs is None:
        if len(given) < len(deviations) or not all(0 <= value < math.inf for value in deviations.values()):
            raise UserError("name runs of two arms (runs=[FOLDER,...]), or user_sd, seed_sd and noise_sd, none below 0")
        components = Components(**deviations)
    else:
        if given:
            raise UserError(f"runs and {given[0]} are both given: leave one out")
        baseline, arm, difference_SU = run_differences(
            [Path(folder).expanduser() for folder in config.runs], config.metric
        )
        components, (num_seeds, num_users) = Components.of(difference_SU), difference_SU.shape
        runs = {
            "baseline": baseline,
            "arm": arm,
            "difference": float(difference_SU.mean()),
            "seeds": num_seeds,
            "users": num_users,
            "visible_effect": visible_effect(components, num_seeds, num_users, config.alpha, config.power),
        }
    seeds = list(config.seeds)
    return {
        "metric": config.metric,
        "effect": config.effect,
        "alpha": config.alpha,
        "power": config.power,
        "components": vars(components),
        "runs": runs,
        "seeds": seeds,
        "users": [users_needed(components, config.effect, count, config.alpha, config.power) for count in seeds],
    }


def _users(users: int | None) -> str:
    return "out of reach: seed variance alone is too large" if users is None else f"{users:,}"
