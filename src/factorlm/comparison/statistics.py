"""Paired statistics over users and seeds. Shapes: S seeds, U users, R resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """The difference of two arms on one metric.

    Attributes:
        difference: mean over users and seeds of the arm minus the baseline.
        low, high: 95 % bootstrap interval.
        p_value: two-sided paired permutation test.
        better, worse: share of users whose mean over seeds went up, or down.
    """

    difference: float
    low: float
    high: float
    p_value: float
    better: float
    worse: float


def paired_effect(difference_SU: Floats, resamples: int, seed: int = 0) -> Effect:
    """Summarize paired differences.

    The interval is a percentile bootstrap that resamples users and seeds, crossed: a drawn user brings its value under
    every drawn seed (A. B. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), 2007). The p-value flips
    the sign of each user's mean over seeds at random: it is exact over users and takes the seeds as given.

    Args:
        difference_SU: [S, U], arm minus baseline for each seed and user.
        resamples: R of the bootstrap and of the permutation test.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    num_seeds, num_users = difference_SU.shape
    boot = np.empty(resamples)
    extreme, mean_U = 0, difference_SU.mean(0)
    observed = abs(mean_U.mean()) - 1e-12
    block = max(1, 4_000_000 // num_users)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        users_RU = generator.multinomial(num_users, np.full(num_users, 1 / num_users), size=size)
        seeds_RS = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size)
        boot[start : start + size] = ((users_RU @ difference_SU.T) * seeds_RS).sum(1) / (num_users * num_seeds)
        signs_RU = generator.integers(0, 2, size=(size, num_users), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs_RU @ mean_U) / num_users >= observed).sum())
    low, high = np.quantile(boot, [0.025, 0.975])
    return Effect(
        difference=float(mean_U.mean()),
        low=float(low),
        high=float(high),
        p_value=(extreme + 1) / (resamples + 1),
        better=float((mean_U > 0).mean()),
        worse=float((mean_U < 0).mean()),
    )


def holm(p_values: list[float]) -> list[float]:
    """Adjust p-values for the family they form.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2), 1979.
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
