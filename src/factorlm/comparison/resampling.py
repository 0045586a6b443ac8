"""Bootstrap and sign flips that many arms and metrics share.

Shapes: A arms, M metrics, S seeds, U users, R resamples, Z = A M or A M S columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
CELLS = 4_000_000  # of one block of resamples


def bootstrap_means(
    difference_AMSU: Floats, present_MU: npt.NDArray[np.bool_], resamples: int, generator: np.random.Generator
) -> Floats:
    """Means [R, A, M] over resampled users and resampled seeds, crossed.

    A drawn user brings its value under every drawn seed (A. B. Owen, The pigeonhole bootstrap, Annals of Applied
    Statistics 1(2), 2007). It counts what is particular to one user under one seed up to three times.

    Args:
        difference_AMSU: [A, M, S, U]; 0 where a user has no value.
        present_MU: [M, U], where it has one.
        resamples: R.
        generator: source of randomness.
    """
    num_arms, num_metrics, num_seeds, num_users = difference_AMSU.shape
    flat_ZU, present_MU = difference_AMSU.reshape(-1, num_users), present_MU.astype(np.float64)
    blocks = []
    for size in _blocks(resamples, num_users):
        users_RU, seeds_RS = _counts(generator, size, num_users), _counts(generator, size, num_seeds)
        sums_RAMS = (users_RU @ flat_ZU.T).reshape(size, num_arms, num_metrics, num_seeds)
        drawn_RM = np.maximum(users_RU @ present_MU.T, 1.0) * num_seeds
        blocks.append(np.einsum("rams,rs->ram", sums_RAMS, seeds_RS) / drawn_RM[:, None])
    return np.concatenate(blocks)


def sign_flip_p(mean_AMU: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Two-sided p-values [A, M] of the permutation test that swaps the two arms of each user at random.

    Args:
        mean_AMU: [A, M, U], each user's mean difference over seeds; 0 where it has none.
        resamples: R.
        generator: source of randomness.
    """
    num_users = mean_AMU.shape[-1]
    flat_UZ = mean_AMU.reshape(-1, num_users).T
    total_Z = flat_UZ.sum(0)
    observed_Z = np.abs(total_Z) - 1e-9
    extreme_Z = np.ones(flat_UZ.shape[1])  # the data themselves are one of the permutations
    for size in _blocks(resamples, num_users):
        bits = np.frombuffer(generator.bytes(size * num_users // 8 + 1), np.uint8)
        flipped_RU = np.unpackbits(bits)[: size * num_users].reshape(size, num_users).astype(np.float64)
        extreme_Z += (np.abs(total_Z - 2 * flipped_RU @ flat_UZ) >= observed_Z).sum(0)
    return (extreme_Z / (resamples + 1)).reshape(mean_AMU.shape[:2])


def _blocks(resamples: int, num_users: int) -> list[int]:
    """Sizes of blocks that fit into memory."""
    size = max(1, CELLS // num_users)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _counts(generator: np.random.Generator, size: int, num: int) -> Floats:
    """How often each of ``num`` is drawn [size, num] in as many draws with replacement."""
    drawn = generator.integers(0, num, (size, num)) + np.arange(0, size * num, num)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * num).reshape(size, num).astype(np.float64)
