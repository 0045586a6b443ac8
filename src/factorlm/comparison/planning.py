"""How many users and seeds it takes to see an effect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factorlm.comparison.crossed import detectable, mean_squares, power

Floats = npt.NDArray[np.float64]
MOST_USERS = 10**9


@dataclass(frozen=True)
class Components:
    """Standard deviations of one arm minus another: of the users' effects, of the seeds, and of what is left."""

    user_sd: float
    seed_sd: float
    noise_sd: float

    @classmethod
    def of(cls, difference_SU: Floats) -> Components:
        """Estimate them by analysis of variance from paired differences [S, U] of two seeds or more; none below 0."""
        num_seeds, num_users = difference_SU.shape
        seeds, users, rest = mean_squares(difference_SU, np.ones(num_users, bool))
        user, seed = max(float(users - rest), 0.0) / num_seeds, max(float(seeds - rest), 0.0) / num_users
        return cls(user_sd=user**0.5, seed_sd=seed**0.5, noise_sd=float(rest) ** 0.5)

    def parts(self, num_seeds: int, num_users: int) -> tuple[float, float]:
        """The seeds' and the users' part of the squared standard error, as the test will estimate them.

        One seed is taken as given: its deviation and that between seeds are one, and what is left counts to the users.
        """
        users, seeds, noise = self.user_sd**2, self.seed_sd**2, self.noise_sd**2
        if num_seeds == 1:
            return 0.0, (users + noise) / num_users
        return seeds / num_seeds + noise / (num_seeds * num_users), users / num_users


def visible_effect(components: Components, num_seeds: int, num_users: int, alpha: float, wanted: float) -> float:
    """Smallest true effect that is found with the ``wanted`` power."""
    return float(detectable(*components.parts(num_seeds, num_users), num_seeds, num_users, alpha, wanted))


def users_needed(components: Components, effect: float, num_seeds: int, alpha: float, wanted: float) -> int | None:
    """Users it takes to find ``effect`` with the ``wanted`` power, or None if more than a billion would not do."""

    def enough(users: int) -> bool:
        return float(power(effect, *components.parts(num_seeds, users), num_seeds, users, alpha)) >= wanted

    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
        if high > MOST_USERS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
