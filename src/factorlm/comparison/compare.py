"""Compare arms by their values for each user, from tables in memory.

Shapes: A arms, S seeds, M columns, U users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from factorlm.comparison.columns import is_share, lower_is_better, split_name
from factorlm.comparison.statistics import Effects, benjamini_hochberg, holm, paired_effects
from factorlm.errors import UserError

Floats = npt.NDArray[np.float64]
NO_METRIC = ("user_id", "train_interactions")
FEWEST_USERS = 30  # of a slice


def compare_tables(
    arms: Mapping[str, Sequence[pl.DataFrame]],
    metric: str,
    resamples: int,
    margin: float | None = None,
    force: bool | None = None,
) -> dict[str, Any]:
    """Pair every arm with the first, the baseline, user by user and seed by seed.

    Args:
        arms: tables of each arm, one for each seed, the same seeds in the same order; the first arm is the baseline. A
            table has ``user_id``, perhaps ``train_interactions``, and a column for each metric, named as in
            `factorlm.comparison.columns`; null or NaN where a user has no value.
        metric: primary metric, such as ``ndcg@10``.
        resamples: of bootstrap and permutation test.
        margin: smallest difference that matters, for the equivalence test.
        force: where users differ between tables, compare those whom all have. None: as False, where the caller has no
            such choice to offer.

    Returns:
        Plain data: ``metric``, ``baseline``, ``users``, ``left_out`` (users that not every table has), ``dropped``
        (other metrics that different users have a value of, and where), ``seeds``, ``resamples``, ``margin``,
        ``activity`` (training interactions of the users of each slice, from and to) and, for each arm, ``metrics``
        (mean and standard deviation over seeds), ``effect`` on the primary metric, ``effects`` on the others and
        ``slices`` of the primary metric; None and empty for the baseline. An effect is `Effects.at` with
        ``p_not_worse`` (test against worse by the margin or more) and ``q_value``, after Benjamini and Hochberg over
        all effects of the comparison; on the primary metric the p-values are also adjusted after Holm for the arms.
        Where users have shares only (`is_share`) there are no slices of activity, and ``wins``, ``losses`` and
        ``ties`` are None.

    Raises:
        UserError: a metric is missing, tables are not paired, or users differ.
    """
    paired = pair_users(arms, metric, force)
    values_AMSU, columns = paired.values_AMSU, paired.columns
    effects = paired_effects(values_AMSU[1:] - values_AMSU[0], resamples, margin)
    means_AMS = np.nanmean(values_AMSU, -1)
    return {
        "metric": metric,
        "baseline": next(iter(arms)),
        "users": int((~np.isnan(values_AMSU[0, 0, 0])).sum()),
        "left_out": paired.left_out,
        "dropped": paired.dropped,
        "seeds": list(range(1, values_AMSU.shape[2] + 1)),
        "resamples": resamples,
        "margin": margin,
        "activity": paired.activity,
        "arms": {
            name: {
                "metrics": {
                    f"test/{column}": over_seeds(means_S)
                    for column, means_S in zip(columns, means_MS, strict=True)
                },
                **found,
            }
            for name, means_MS, found in zip(arms, means_AMS, _found(effects, columns), strict=True)
        },
    }  # fmt: skip


@dataclass(frozen=True)
class Paired:
    """Values of the same users under every arm and seed.

    Attributes:
        values_AMSU: [A, M, S, U]; NaN where a user has no value.
        columns: M names: the primary metric, the other metrics, and the slices of the primary metric.
        left_out: users that not every table has.
        dropped: other metrics that different users have a value of, and in which tables.
        activity: least and most training interactions of the users in each slice of activity.
    """

    values_AMSU: Floats
    columns: list[str]
    left_out: int
    dropped: dict[str, str]
    activity: dict[str, list[int]]


def pair_users(arms: Mapping[str, Sequence[pl.DataFrame]], metric: str, force: bool | None) -> Paired:
    """Put tables in the same order of users; arguments and errors are those of `compare_tables`."""
    baseline, *others = arms
    if not others:
        raise UserError(f"there is only the arm {baseline}: comparing takes two")
    num_seeds = len(arms[baseline])
    if any(len(tables) != num_seeds for tables in arms.values()):
        counts = ", ".join(f"{name} {len(tables)}" for name, tables in arms.items())
        raise UserError(f"arms are paired seed by seed, so each needs as many tables; they have {counts}")
    named = {f"{name}, table {place + 1}": table for name, tables in arms.items() for place, table in enumerate(tables)}
    columns = _columns(named, metric)
    users, left_out = _common_users(named, force)
    tables = [table.join(users, on="user_id", how="semi").sort("user_id") for table in named.values()]
    values_TMU = np.stack([table.select(pl.col(columns).cast(pl.Float64)).to_numpy().T for table in tables])
    dropped = {} if force else _dropped(values_TMU, columns, list(named), force)
    values_TMU = np.where(np.isnan(values_TMU).any(0), np.nan, values_TMU)
    values_TMU = values_TMU[:, [column not in dropped for column in columns]]
    columns = [column for column in columns if column not in dropped]
    values_AMSU = values_TMU.reshape(len(arms), num_seeds, len(columns), -1).swapaxes(1, 2)
    activity = {}
    for name, mask_U, reach in () if is_share(metric) else _activity(tables[0]):
        columns.append(f"{metric}/activity={name}")
        values_AMSU = np.concatenate([values_AMSU, np.where(mask_U, values_AMSU[:, :1], np.nan)], 1)
        activity[f"activity={name}"] = reach
    present_M = (~np.isnan(values_AMSU[0, :, 0])).sum(-1)
    if present_M[0] < 2:
        raise UserError(f"metric={metric} has a value for {present_M[0]} users: comparing takes two or more")
    kept = [place for place, count in enumerate(present_M) if count >= min(FEWEST_USERS, present_M[0])]
    return Paired(values_AMSU[:, kept], [columns[place] for place in kept], left_out, dropped, activity)


def _columns(named: Mapping[str, pl.DataFrame], metric: str) -> list[str]:
    """The primary metric, the other metrics all tables have, and the slices of the primary metric."""
    for name, table in named.items():
        if "user_id" not in table.columns:
            raise UserError(f"{name}: there is no column user_id; it has {', '.join(table.columns)}")
        if metric not in table.columns:
            have = [c for c in table.columns if c not in NO_METRIC and split_name(c)[1] is None]
            near = get_close_matches(metric, table.columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"metric={metric} is not in {name}, which has {', '.join(have)}{hint}")
    shared = [c for c in next(iter(named.values())).columns if all(c in table.columns for table in named.values())]
    metrics = [c for c in shared if c not in (*NO_METRIC, metric) and split_name(c)[1] is None]
    return [metric, *metrics, *(c for c in shared if split_name(c)[0] == metric and c != metric)]


def _common_users(named: Mapping[str, pl.DataFrame], force: bool | None) -> tuple[pl.DataFrame, int]:
    """Users whom all tables have, and how many others there are."""
    first, *_ = named
    common = everyone = named[first].select("user_id")
    for name, table in named.items():
        own = table.select("user_id")
        if own.schema != common.schema:
            kinds = f"{common.schema['user_id']} in {first} and {own.schema['user_id']} in {name}"
            raise UserError(f"user_id is {kinds}: write both alike")
        if own.is_duplicated().any():
            raise UserError(f"{name}: a user_id comes twice; give each user one row")
        common, everyone = common.join(own, on="user_id", how="semi"), pl.concat([everyone, own]).unique()
        if not force and not len(common) == len(own) == len(everyone):
            raise UserError(
                f"users differ: {first} has {len(named[first])} and {name} {len(own)}, {len(common)} in common; "
                f"{_remedy(force)}"
            )
    return common, len(everyone) - len(common)


def _remedy(force: bool | None) -> str:
    return "evaluate the same users" + ("" if force is None else ", or compare those in common with force=true")


def _dropped(values_TMU: Floats, columns: Sequence[str], names: Sequence[str], force: bool | None) -> dict[str, str]:
    """Columns that different users have a value of, and in which tables; of the primary metric that is an error."""
    missing, dropped = np.isnan(values_TMU), {}
    for place, column in enumerate(columns):
        differing = (missing[:, place] != missing[0, place]).any(-1)
        if differing.any():
            dropped[column] = f"other users have a value in {names[int(differing.argmax())]} than in {names[0]}"
    if columns[0] in dropped:
        raise UserError(f"{columns[0]}: {dropped[columns[0]]}; {_remedy(force)}")
    return dropped


def _activity(table: pl.DataFrame) -> Iterator[tuple[str, npt.NDArray[np.bool_], list[int]]]:
    """Thirds of the users by their training interactions, and those without: name, users [U], least and most."""
    if "train_interactions" not in table.columns:
        return
    counts_U = table["train_interactions"].to_numpy()
    active = counts_U[counts_U > 0]
    bounds = np.quantile(active, [1 / 3, 2 / 3], method="inverted_cdf") if len(active) else np.zeros(2)
    third_U = np.where(counts_U == 0, 0, 1 + np.searchsorted(bounds, counts_U))
    for place, name in enumerate(("none", "low", "middle", "high")):
        if (third_U == place).any():
            own = counts_U[third_U == place]
            yield name, third_U == place, [int(own.min()), int(own.max())]


def over_seeds(values: Sequence[float] | Floats) -> dict[str, float | None]:
    """Mean and standard deviation over seeds; None of one seed."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _found(effects: Effects, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Effects of every arm, the baseline's none first, with what the family of all tests says of each."""
    metric, better = columns[0], -1 if lower_is_better(columns[0]) else 1
    cells = [[effects.at(arm, place) for place in range(len(columns))] for arm in range(len(effects.difference))]
    q_values = iter(benjamini_hochberg([effect["p_value"] for arm in cells for effect in arm]))
    for arm in cells:
        for effect in arm:
            effect["q_value"] = next(q_values)
            below, above = effect.pop("p_not_below"), effect.pop("p_not_above")
            effect["p_not_worse"] = below if better == 1 else above
        for column, effect in zip(columns, arm, strict=True):
            if is_share(column):
                effect.update(wins=None, losses=None, ties=None)
    primary = [arm[0] for arm in cells]
    for name in ("p_value", "p_equivalent", "p_not_worse"):
        if primary[0][name] is not None:
            for effect, adjusted in zip(primary, holm([effect[name] for effect in primary]), strict=True):
                effect["p_holm" if name == "p_value" else f"{name}_holm"] = adjusted
    found: list[dict[str, Any]] = [{"effect": None, "effects": {}, "slices": {}}]
    for arm in cells:
        named = dict(zip(columns, arm, strict=True))
        slices = {slice_: named[c] for c in columns if (slice_ := split_name(c)[1]) is not None}
        others = {c: effect for c, effect in named.items() if c != metric and split_name(c)[1] is None}
        found.append({"effect": named[metric], "effects": others, "slices": slices})
    return found
