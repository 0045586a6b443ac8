"""Paired statistics over users and seeds. Shapes: A arms, S seeds, U users, R resamples."""

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


def paired_effects(difference_ASU: Floats, resamples: int, seed: int = 0) -> list[Effect]:
    """Summarize the paired differences of A arms to one baseline; all arms share the same resamples.

    The interval is a percentile bootstrap that resamples users and seeds, crossed: a drawn user brings its value under
    every drawn seed (A. B. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), 2007). The p-value flips
    the sign of each user's mean over seeds at random: it is exact over users and takes the seeds as given.

    Args:
        difference_ASU: [A, S, U], arm minus baseline for each seed and user.
        resamples: R of the bootstrap and of the permutation test.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    num_arms, num_seeds, num_users = difference_ASU.shape
    mean_AU = difference_ASU.mean(1)
    observed_A = np.abs(mean_AU.mean(1)) - 1e-12
    boot_RA, extreme_A = np.empty((resamples, num_arms)), np.zeros(num_arms)
    block = max(1, 4_000_000 // num_users)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        users_RU = generator.multinomial(num_users, np.full(num_users, 1 / num_users), size=size).astype(np.float64)
        seeds_RS = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size)
        signs_RU = generator.integers(0, 2, size=(size, num_users), dtype=np.int8) * 2.0 - 1.0
        for arm in range(num_arms):
            by_seed_RS = users_RU @ difference_ASU[arm].T
            boot_RA[start : start + size, arm] = (by_seed_RS * seeds_RS).sum(1) / (num_users * num_seeds)
        extreme_A += (np.abs(signs_RU @ mean_AU.T) / num_users >= observed_A).sum(0)
    low_A, high_A = np.quantile(boot_RA, [0.025, 0.975], axis=0)
    return [
        Effect(
            difference=float(mean_AU[arm].mean()),
            low=float(low_A[arm]),
            high=float(high_A[arm]),
            p_value=float((extreme_A[arm] + 1) / (resamples + 1)),
            better=float((mean_AU[arm] > 0).mean()),
            worse=float((mean_AU[arm] < 0).mean()),
        )
        for arm in range(num_arms)
    ]


def holm(p_values: list[float]) -> list[float]:
    """Adjust p-values for the family they form.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2), 1979.
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
