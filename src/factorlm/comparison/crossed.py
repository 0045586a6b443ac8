"""Variance of a mean over users and seeds, and the reference distribution of its t value.

Shapes: every argument may be a number or an array; they broadcast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, ndtr, stdtr, stdtrit

Floats = npt.NDArray[np.float64]
NODES = (np.arange(32) + 0.5) / 32  # probabilities, evenly spread
TINY = 1e-300  # instead of a variance of 0


def mean_squares(values_SU: Floats, present_U: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Mean squares of seeds, users and what is left, of a table with one value for each seed and user.

    The two-way analysis of variance without replication, with random users and seeds: for deviations σ_s, σ_u, σ_e the
    mean squares expect U σ_s² + σ_e², S σ_u² + σ_e² and σ_e². With one seed those of seeds and of the rest are 0, and
    that of users expects σ_u² + σ_e².

    Args:
        values_SU: [..., S, U]; 0 where a user is absent.
        present_U: [..., U]; broadcasts against the leading axes.
    """
    num_seeds, num_users = values_SU.shape[-2], present_U.sum(-1)
    by_seed, by_user = values_SU.sum(-1) / num_users[..., None], values_SU.mean(-2)
    mean = by_seed.mean(-1)
    seeds = num_users * ((by_seed - mean[..., None]) ** 2).sum(-1)
    users = num_seeds * (((by_user - mean[..., None]) ** 2) * present_U).sum(-1)
    total = (((values_SU - mean[..., None, None]) ** 2) * present_U[..., None, :]).sum((-1, -2))
    rest = np.maximum(total - seeds - users, 0.0)
    free = max(num_seeds - 1, 1)
    return seeds / free, users / (num_users - 1), rest / (free * (num_users - 1))


def parts(
    seeds: Floats, users: Floats, rest: Floats, num_seeds: int, num_users: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """The seeds' and the users' part of the squared standard error of the mean, from `mean_squares`.

    They expect σ_s²/S + σ_e²/(S U) and σ_u²/U. Users count only where their mean square exceeds that of the rest by
    more than one standard error of that excess: what is noise must not be given the light tail of many users. Seeds
    count for at least one part in U of the rest, since values on a lattice, such as hits, can agree by chance.
    """
    noise = rest * np.sqrt(2 * num_seeds / (max(num_seeds - 1, 1) * num_users))
    excess = np.where(users - rest > noise, users - rest, 0.0)
    size = num_seeds * num_users
    return np.maximum(seeds, rest / num_users) / size, excess / size


def tail(t: Any, seed_share: Any, num_seeds: int, num_users: Any) -> Floats:
    """Probability that the t value of a mean over users and seeds exceeds ``t`` if the true mean is 0.

    The mixture w T(S - 1) + (1 - w) T(U - 1) of Student tails, w the share of seeds in the squared standard error:
    these are the weights of W. G. Cochran (Approximate significance levels of the Behrens-Fisher test, Biometrics
    20(1), 1964), applied to probabilities instead of critical values. It is exact where one source of variance is all.
    With two seeds w is replaced by its root: a large t then comes from a seeds' part that is small by chance, and the
    tail of T(1), of order 1/t, makes that as likely as the root of the part.
    """
    if num_seeds == 2:
        seed_share = np.sqrt(seed_share)
    seeds, users = stdtr(max(num_seeds - 1, 1), -np.asarray(t)), stdtr(np.asarray(num_users) - 1, -np.asarray(t))
    return np.asarray(seed_share * seeds + (1 - np.asarray(seed_share)) * users)


def critical(level: float, seed_share: Any, num_seeds: int, num_users: Any) -> Floats:
    """The t value whose upper `tail` is ``level``, by bisection between the quantiles of the two parts."""
    share, users = np.broadcast_arrays(np.asarray(seed_share, float), np.asarray(num_users, float))
    ends = -stdtrit(max(num_seeds - 1, 1), level), -stdtrit(users - 1, level)
    low, high = np.minimum(*ends), np.maximum(*ends)
    for _ in range(36):
        middle = (low + high) / 2
        above = tail(middle, share, num_seeds, users) > level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2)


def power(effect: Any, seed_part: Any, user_part: Any, num_seeds: int, num_users: Any, alpha: float) -> Floats:
    """Probability that the two-sided test at ``alpha`` finds a true ``effect``.

    The seeds' part is estimated with S - 1 degrees of freedom, so power is a mean over that chi-square; users are taken
    to be many. The chance to find the opposite sign is left out.

    Args:
        effect: true mean.
        seed_part, user_part: expected parts of the squared standard error: σ_s²/S + σ_e²/(S U), and σ_u²/U.
        num_seeds, num_users: of the comparison.
        alpha: two-sided level.
    """
    bounds, error = _bounds(seed_part, user_part, num_seeds, num_users, alpha)
    return _found(effect, bounds, error)


def detectable(
    seed_part: Any, user_part: Any, num_seeds: int, num_users: Any, alpha: float = 0.05, wanted: float = 0.8
) -> Floats:
    """Smallest true effect that the two-sided test at ``alpha`` finds with `power` ``wanted``, by bisection."""
    bounds, error = _bounds(seed_part, user_part, num_seeds, num_users, alpha)
    low, high = np.zeros_like(error), bounds.max(-1) + 9 * error
    for _ in range(36):
        middle = (low + high) / 2
        enough = _found(middle, bounds, error) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.asarray(high)


def _bounds(seed_part: Any, user_part: Any, num_seeds: int, num_users: Any, alpha: float) -> tuple[Floats, Floats]:
    """Differences the test needs [..., N], at N quantiles of the estimated seeds' part, and the true standard error."""
    parts = (np.asarray(value, float)[..., None] for value in (seed_part, user_part, num_users))
    seed_part, user_part, num_users = np.broadcast_arrays(*parts)
    free = max(num_seeds - 1, 1)
    drawn = seed_part * chdtri(free, 1 - NODES) / free
    squared = np.maximum(drawn + user_part, TINY)
    bounds = critical(alpha / 2, drawn / squared, num_seeds, num_users) * np.sqrt(squared)
    return bounds, np.sqrt(np.maximum(seed_part + user_part, TINY))[..., 0]


def _found(effect: Any, bounds: Floats, error: Floats) -> Floats:
    return np.asarray(ndtr((np.asarray(effect)[..., None] - bounds) / error[..., None]).mean(-1))
