"""Paired statistics of many arms and metrics at once. Shapes: A arms, M metrics, S seeds, U users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from factorlm.comparison.crossed import critical, detectable, mean_squares, parts, tail
from factorlm.comparison.resampling import bootstrap_means, sign_flip_p

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-9  # smaller differences are no differences


@dataclass(frozen=True)
class Effects:
    """Differences to the baseline; every attribute is [A, M].

    Attributes:
        difference: mean over users and seeds of the arm minus the baseline.
        standard_error: of it, for users and seeds drawn anew; with one seed for users only.
        seed_share: the share of seeds in the squared standard error.
        low, high: 95 % interval.
        p_value: two-sided; consistent with the interval.
        boot_low, boot_high: 95 % percentile interval of the crossed bootstrap.
        p_flip: two-sided sign-flip permutation test over users, given the seeds.
        effect_size: Cohen's d of the users' means over seeds: mean / standard deviation; 0 where all are equal.
        wins, losses, ties: users whose mean over seeds is above, below or equal to the baseline's.
        users: that have a value.
        detectable: smallest effect that such a comparison finds with probability 0.8 at a two-sided level of 0.05.
        detectable_holm: the same at 0.05 / A, the level of Holm's first step.
        p_equivalent: two one-sided tests of an absolute difference of at least the margin; None without a margin.
        p_not_below, p_not_above: one-sided test of a true difference of -margin or less, and of margin or more.
    """

    difference: Floats
    standard_error: Floats
    seed_share: Floats
    low: Floats
    high: Floats
    p_value: Floats
    boot_low: Floats
    boot_high: Floats
    p_flip: Floats
    effect_size: Floats
    wins: npt.NDArray[np.int64]
    losses: npt.NDArray[np.int64]
    ties: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    detectable: Floats
    detectable_holm: Floats
    p_equivalent: Floats | None = None
    p_not_below: Floats | None = None
    p_not_above: Floats | None = None

    def at(self, arm: int, metric: int) -> dict[str, Any]:
        """The effect of one arm on one metric, as plain data."""
        return {name: None if value is None else value[arm, metric].item() for name, value in vars(self).items()}


def paired_effects(
    difference_AMSU: Floats, resamples: int, margin: float | None = None, generator: np.random.Generator | None = None
) -> Effects:
    """Summarize paired differences of A arms to one baseline on M metrics; all share the same resamples.

    Users and seeds are crossed random effects. The squared standard error of the mean has a part of the seeds and one
    of the users, see `parts`; it expects σ_s²/S + σ_u²/U + σ_e²/(S U). The t value is referred to `tail`. With one seed
    the standard error is that of the mean over users: it says nothing of other seeds.

    Args:
        difference_AMSU: [A, M, S, U], arm minus baseline; NaN where a user has no value for a metric, under any seed.
        resamples: of bootstrap and permutation test.
        margin: smallest difference that matters, for the equivalence test.
        generator: of the resampling; None: seeded with 0.
    """
    generator = generator or np.random.default_rng(0)
    present_MU = ~np.isnan(difference_AMSU[0, :, 0])
    difference_AMSU = np.where(np.abs(difference_AMSU) > ROUNDING, difference_AMSU, 0.0)  # NaN compares false
    num_seeds, users_M = difference_AMSU.shape[2], present_MU.sum(-1)
    user_AMU = difference_AMSU.mean(2)
    mean_AM = user_AMU.sum(-1) / users_M
    seeds_AM, between_AM, rest_AM = mean_squares(difference_AMSU, present_MU)
    seed_part_AM, user_part_AM = parts(seeds_AM, between_AM, rest_AM, num_seeds, users_M)
    squared_AM = seed_part_AM + user_part_AM
    error_AM, share_AM = np.sqrt(squared_AM), _ratio(seed_part_AM, squared_AM)

    def beyond(distance: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(distance == 0, 0.0, distance / error_AM)
        return tail(t, share_AM, num_seeds, users_M)

    reach_AM = critical(0.025, share_AM, num_seeds, users_M) * error_AM
    spread_AM = np.sqrt((((user_AMU - mean_AM[..., None]) ** 2) * present_MU).sum(-1) / (users_M - 1))
    boot_2AM = np.quantile(
        bootstrap_means(difference_AMSU, present_MU, resamples, generator), [0.025, 0.975], axis=0, overwrite_input=True
    )
    wins_AM, losses_AM = (user_AMU > ROUNDING).sum(-1), (user_AMU < -ROUNDING).sum(-1)
    expected_AM = np.maximum(seed_part_AM, rest_AM / (num_seeds * users_M))  # no less than what is left, but by chance
    below = above = None
    if margin is not None:
        below, above = beyond(mean_AM + margin), beyond(margin - mean_AM)
    return Effects(
        difference=mean_AM,
        standard_error=error_AM,
        seed_share=share_AM,
        low=mean_AM - reach_AM,
        high=mean_AM + reach_AM,
        p_value=2 * beyond(np.abs(mean_AM)),
        boot_low=boot_2AM[0],
        boot_high=boot_2AM[1],
        p_flip=sign_flip_p(user_AMU, resamples, generator),
        effect_size=_ratio(mean_AM, spread_AM),
        wins=wins_AM,
        losses=losses_AM,
        ties=users_M - wins_AM - losses_AM,
        users=np.broadcast_to(users_M, mean_AM.shape),
        detectable=detectable(expected_AM, user_part_AM, num_seeds, users_M),
        detectable_holm=detectable(expected_AM, user_part_AM, num_seeds, users_M, 0.05 / len(difference_AMSU)),
        p_equivalent=None if below is None or above is None else np.maximum(below, above),
        p_not_below=below,
        p_not_above=above,
    )


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the family they form, so that the chance of any false finding stays at the level.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2), 1979.
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the expected share of false ones among the findings stays at the level.

    Y. Benjamini and Y. Hochberg, Controlling the false discovery rate, Journal of the Royal Statistical Society B
    57(1), 1995.
    """
    from scipy.stats import false_discovery_control

    return [float(q) for q in false_discovery_control(p_values)] if p_values else []
