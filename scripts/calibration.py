"""Is p = 0.05 five percent? The paired statistics under no effect and under planted ones.

    .venv/bin/python scripts/calibration.py runs/aa/cold_item runs/aa/user_time --out experiments/calibration

It prints tables and writes them, as README.md keeps them, to tables.md and all numbers to results.json.

Each folder holds many finished runs of one arm that differ by their seed. Without effect: two disjoint random sets of
seeds are compared as if they were two arms. Planted: users are drawn anew from the pool, with replacement, and one side
gets a known effect, which differs between users and between seeds; the pool's mean is the truth. ``grid`` simulates
normal values, whose mean squares can be drawn directly, and sets methods side by side that were considered.

Rates are in percent; ± is two Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtr

from factorlm.comparison.crossed import parts, tail
from factorlm.comparison.planning import Components
from factorlm.comparison.statistics import Effects, benjamini_hochberg, holm, paired_effects
from factorlm.reporting.tables import markdown

METRICS = ("ndcg@10", "recall@10", "hit@10", "mrr@10", "recall@20")
SEEDS = (2, 3, 5, 10)
LEVELS = (0.05, 0.01, 0.001)
BATCH, RESAMPLES = 50, 1000
MARGIN = 0.02
PLANTED = {  # deviation of the effect between users and between seeds
    "constant": (0.0, 0.0),
    "users differ": (0.1, 0.0),
    "users and seeds differ": (0.1, 0.01),
}
Arrays = np.ndarray


def percent(hits: Any) -> dict[str, float]:
    share = float(np.mean(hits))
    return {"rate": round(100 * share, 2), "error": round(200 * (share * (1 - share) / np.size(hits)) ** 0.5, 2)}


def load(folder: Path) -> Arrays:
    """Values [M, S, U] of the runs in a folder."""
    tables = [pl.read_parquet(path).sort("user_id") for path in sorted(folder.glob("*/per_user.parquet"))]
    assert all(table["user_id"].equals(tables[0]["user_id"]) for table in tables)

    return np.stack([table.select(METRICS).to_numpy().T for table in tables], 1)


def two_sets(pool_MSU: Arrays, num_seeds: int, generator: np.random.Generator) -> Arrays:
    """Paired difference [M, S, U] of two disjoint sets of seeds."""
    drawn = generator.permutation(pool_MSU.shape[1])[: 2 * num_seeds]
    return pool_MSU[:, drawn[:num_seeds]] - pool_MSU[:, drawn[num_seeds:]]


def batches(trials: int, one: Callable[[], Arrays], generator: np.random.Generator) -> list[Effects]:
    """Effects of many trials, which are judged as if they were arms."""
    return [
        paired_effects(np.stack([one() for _ in range(BATCH)]), RESAMPLES, MARGIN, generator)
        for _ in range(trials // BATCH)
    ]


def joined(found: list[Effects], name: str) -> Arrays:
    return np.concatenate([getattr(effects, name) for effects in found])


def no_effect(pool_MSU: Arrays, trials: int, generator: np.random.Generator) -> dict[str, Any]:
    """False positives by number of seeds, method and metric; of ours at smaller levels too."""
    result: dict[str, Any] = {}
    for seeds in SEEDS:
        found = batches(trials, lambda seeds=seeds: two_sets(pool_MSU, seeds, generator), generator)
        p_TM = joined(found, "p_value")
        hits = {
            "crossed": p_TM < 0.05,
            "crossed, level 0.01": p_TM < 0.01,
            "crossed, level 0.001": p_TM < 0.001,
            "flip": joined(found, "p_flip") < 0.05,
            "bootstrap": (joined(found, "boot_low") > 0) | (joined(found, "boot_high") < 0),
        }
        result[str(seeds)] = {
            name: {metric: percent(hit_TM[:, place]) for place, metric in enumerate(METRICS)}
            for name, hit_TM in hits.items()
        }
    return result


def planted(pool_MSU: Arrays, trials: int, generator: np.random.Generator) -> dict[str, Any]:
    """Coverage of intervals, and false claims of equivalence and of no harm, at a true effect of the margin."""
    num_users = pool_MSU.shape[2]
    result: dict[str, Any] = defaultdict(dict)
    for (name, (user_sd, seed_sd)), seeds in itertools.product(PLANTED.items(), SEEDS):
        effect_U = generator.normal(0, user_sd, num_users)
        effect_U += MARGIN - effect_U.mean()

        def one(effect_U: Arrays = effect_U, seed_sd: float = seed_sd, seeds: int = seeds) -> Arrays:
            users = generator.integers(0, num_users, num_users)
            seed_S = generator.normal(0, seed_sd, seeds)
            return two_sets(pool_MSU[:1, :, users], seeds, generator) + effect_U[users] + seed_S[:, None]

        found = batches(trials, one, generator)
        inside = {
            kind: percent((joined(found, low) <= MARGIN) & (joined(found, high) >= MARGIN))
            for kind, low, high in (("crossed", "low", "high"), ("bootstrap", "boot_low", "boot_high"))
        }
        false = {kind: percent(joined(found, kind) < 0.05) for kind in ("p_equivalent", "p_not_above")}
        result[name][str(seeds)] = {"coverage": inside, "false at margin": false}
    return dict(result)


def family(pool_MSU: Arrays, trials: int, seeds: int, generator: np.random.Generator, arms: int = 4) -> dict[str, Any]:
    """Chance of any false finding among four equal arms: Holm over arms, Benjamini-Hochberg over arms and metrics."""
    any_holm, any_bh, any_raw = [], [], []
    for _ in range(trials):
        sets = generator.permutation(pool_MSU.shape[1])[: seeds * (arms + 1)].reshape(arms + 1, seeds)
        differences = np.stack([pool_MSU[:, own] - pool_MSU[:, sets[0]] for own in sets[1:]])
        p_AM = paired_effects(differences, 1, None, generator).p_value
        any_raw.append(p_AM.min() < 0.05)
        any_holm.append(min(holm(p_AM[:, 0].tolist())) < 0.05)
        any_bh.append(min(benjamini_hochberg(p_AM.ravel().tolist())) < 0.05)
    return {"unadjusted": percent(any_raw), "holm": percent(any_holm), "benjamini_hochberg": percent(any_bh)}


def components(pool_MSU: Arrays) -> dict[str, dict[str, float]]:
    """Deviations of the arm itself: between users, between seeds, and what is left."""
    found = {metric: Components.of(pool_MSU[place]) for place, metric in enumerate(METRICS)}
    return {metric: {name: round(value, 5) for name, value in vars(own).items()} for metric, own in found.items()}


def grid(draws: int, generator: np.random.Generator) -> dict[str, Any]:
    """False positives of methods over normal users and seeds, by level and seeds.

    Least, largest and mean distance from the level; and of our test and its first version the largest chance of any
    false finding among five independent tests after Holm, and among twenty after Benjamini and Hochberg.
    """
    rates: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for seeds, users, user_sd, seed_sd in itertools.product(
        SEEDS, (50, 200, 1000), (0, 0.3, 1, 3), (0, 0.02, 0.05, 0.1, 0.3)
    ):
        free = seeds - 1, users - 1, (seeds - 1) * (users - 1)
        expected = users * seed_sd**2 + 1, seeds * user_sd**2 + 1, 1.0
        squares = [mean * generator.chisquare(df, draws) / df for mean, df in zip(expected, free, strict=True)]
        mean = np.abs(generator.normal(0, (expected[0] + expected[1] - 1) ** 0.5, draws))
        for name, method in METHODS.items():
            p_values = method(squares, mean, seeds, users)
            for level in LEVELS:
                rates[str(level)][name][seeds].append(100 * float((p_values < level).mean()))
            if name in ("ours", "first version"):
                five, twenty = p_values.reshape(-1, 5), np.sort(p_values.reshape(-1, 20), 1)
                rates["holm"][name][seeds].append(100 * float((five.min(1) * 5 < 0.05).mean()))
                any_bh = (twenty * 20 / np.arange(1, 21)).min(1) < 0.05
                rates["benjamini_hochberg"][name][seeds].append(100 * float(any_bh.mean()))

    def summary(own: list[float], level: float) -> dict[str, float]:
        distance = float(np.mean(np.abs(np.array(own) - 100 * level)))
        return {"least": round(min(own), 2), "most": round(max(own), 2), "mean distance": round(distance, 2)}

    return {
        kind: {
            name: {str(seeds): summary(own, float(kind) if kind[0] == "0" else 0.05) for seeds, own in by_seeds.items()}
            for name, by_seeds in by_name.items()
        }
        for kind, by_name in rates.items()
    }


def ours(squares: list[Arrays], mean: Arrays, seeds: int, users: int) -> Arrays:
    """Two-sided p-values of means in units of 1 / sqrt(S U)."""
    seed, user = (seeds * users * part for part in parts(*squares, seeds, np.array(users)))
    return 2 * tail(mean / np.sqrt(seed + user), seed / (seed + user), seeds, users)


def first_version(squares: list[Arrays], mean: Arrays, seeds: int, users: int, cut: float = 0.25) -> Arrays:
    """The users' part at any size, cut at minus a quarter of the seeds' part, and the weight as it is."""
    total = squares[0] + np.maximum(squares[1] - squares[2], -cut * squares[0])
    share, t = np.minimum(squares[0] / total, 1), mean / np.sqrt(total)
    return 2 * (share * stdtr(seeds - 1, -t) + (1 - share) * stdtr(users - 1, -t))


def cut_at_zero(squares: list[Arrays], mean: Arrays, seeds: int, users: int) -> Arrays:
    return first_version(squares, mean, seeds, users, 0.0)


def weight_kept(squares: list[Arrays], mean: Arrays, seeds: int, users: int) -> Arrays:
    """Ours but for the root of the weight at two seeds."""
    seed, user = parts(*squares, seeds, np.array(users))
    share, t = seed / (seed + user), mean / np.sqrt(seeds * users * (seed + user))
    return share * 2 * stdtr(seeds - 1, -t) + (1 - share) * 2 * stdtr(users - 1, -t)


def satterthwaite(squares: list[Arrays], mean: Arrays, seeds: int, users: int) -> Arrays:
    total = np.maximum(squares[0] + squares[1] - squares[2], squares[0])
    free = seeds - 1, users - 1, (seeds - 1) * (users - 1)
    df = total**2 / sum(own**2 / count for own, count in zip(squares, free, strict=True))
    return 2 * stdtr(np.maximum(df, seeds - 1), -mean / np.sqrt(total))


def satterthwaite_floored(squares: list[Arrays], mean: Arrays, seeds: int, users: int) -> Arrays:
    floored = [np.maximum(squares[0], squares[2]), np.maximum(squares[1], squares[2]), squares[2]]
    return satterthwaite(floored, mean, seeds, users)


def seeds_ignored(squares: list[Arrays], mean: Arrays, seeds: int, users: int) -> Arrays:
    return 2 * stdtr(users - 1, -mean / np.sqrt(squares[1]))


METHODS: dict[str, Callable[[list[Arrays], Arrays, int, int], Arrays]] = {
    "ours": ours,
    "ours, weight not rooted": weight_kept,
    "first version": first_version,
    "first version, cut at 0": cut_at_zero,
    "satterthwaite": satterthwaite,
    "satterthwaite, floored at MS_e": satterthwaite_floored,
    "seeds ignored": seeds_ignored,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=40_000)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    options = parser.parse_args()
    if options.trials < BATCH:
        parser.error(f"--trials {options.trials}: it must be {BATCH} or more")
    options.out.mkdir(parents=True, exist_ok=True)
    answer: dict[str, Any] = {"trials": options.trials, "margin": MARGIN}
    answer["grid"] = grid(options.draws, np.random.default_rng(0))
    for folder in options.folders:
        pool_MSU, generator = load(folder), np.random.default_rng(0)
        answer[folder.name] = {
            "seeds": pool_MSU.shape[1],
            "users": pool_MSU.shape[2],
            "components": components(pool_MSU),
            "no effect": no_effect(pool_MSU, options.trials, generator),
            "planted": planted(pool_MSU, options.trials, generator),
            "family": {str(seeds): family(pool_MSU, options.trials, seeds, generator) for seeds in (2, 3)},
        }
    (options.out / "results.json").write_text(json.dumps(answer) + "\n")
    tables = "\n\n".join(map(markdown, shown(answer, [folder.name for folder in options.folders])))
    (options.out / "tables.md").write_text(tables + "\n")
    print(tables)


def shown(answer: dict[str, Any], pools: list[str]) -> list[list[list[str]]]:
    """Tables of the document."""

    def cell(share: dict[str, float]) -> str:
        return f"{share['rate']:.1f} ±{share['error']:.1f}"

    tables = []
    for kind, by_name in answer["grid"].items():
        title = f"level {kind}" if kind[0] == "0" else f"any false finding, {kind}"
        table = [[f"normal values, {title}", *(f"{seeds} seeds" for seeds in SEEDS)]]
        for name, own in by_name.items():
            table.append([name, *(f"{v['least']}-{v['most']} ({v['mean distance']})" for v in own.values())])
        tables.append(table)
    for pool in pools:
        positives = [[f"{pool}: false positives", "seeds", *METRICS]]
        for seeds, by_method in answer[pool]["no effect"].items():
            positives += [[name, seeds, *map(cell, own.values())] for name, own in by_method.items()]
        coverage = [[f"{pool}: planted effect", "seeds", "coverage", "of the bootstrap", "false equivalence"]]
        for name, by_seeds in answer[pool]["planted"].items():
            for seeds, own in by_seeds.items():
                shares = [
                    own["coverage"]["crossed"],
                    own["coverage"]["bootstrap"],
                    own["false at margin"]["p_equivalent"],
                ]
                coverage.append([name, seeds, *map(cell, shares)])
        families = [[f"{pool}: any false finding, four equal arms", "2 seeds", "3 seeds"]]
        for name in answer[pool]["family"]["2"]:
            families.append([name, *(cell(own[name]) for own in answer[pool]["family"].values())])
        tables += [positives, coverage, families]
    return tables


if __name__ == "__main__":
    main()
