"""Compiled sums over what came before each training row of a user. Shapes: n rows, U users, I items."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

NEGLIGIBLE = 1e-6  # weight below which two rows of a user are too far apart to matter


@numba.njit(cache=True)
def transition_sums(offsets: Index, items: Index, recency: float, num_items: int) -> tuple[Matrix, Matrix]:
    r"""S'S and S'T [I, I], of the rows s_t [I] of the history before each row t but a user's first, and its item t.

    An item weighs ``recency ** p`` in s_t when it was last had p rows before the latest, as in `history_rows`; T is
    one-hot. Two rows p <= q of a user, whose items were had last at t = q + 1, ..., q + m, add to S'S

    .. math:: \sum_{t=q+1}^{q+m} r^{t-1-p} r^{t-1-q} = r^{q-p} \sum_{k=0}^{m-1} r^{2k}

    so that no s_t is ever made.

    Args:
        offsets: [U + 1]; the items of user u are ``items[offsets[u]:offsets[u + 1]]``, in order of time.
        items: [n] item indices.
        recency: r, in (0, 1].
        num_items: I.
    """
    together, following = np.zeros((num_items, num_items)), np.zeros((num_items, num_items))
    longest = 1
    for user in range(len(offsets) - 1):
        longest = max(longest, offsets[user + 1] - offsets[user])
    power, sums = np.ones(longest), np.zeros(longest + 1)
    for k in range(1, longest):
        power[k] = power[k - 1] * recency
    for k in range(longest):
        sums[k + 1] = sums[k] + power[k] * power[k]
    until, seen = np.empty(longest, np.int64), np.full(num_items, -1, np.int64)
    for user in range(len(offsets) - 1):
        own = items[offsets[user] : offsets[user + 1]]
        last = len(own) - 1
        for p in range(last, -1, -1):  # the last row before which the item was had last at p
            until[p] = last if seen[own[p]] < 0 else seen[own[p]]
            seen[own[p]] = p
        for p in range(last + 1):
            seen[own[p]] = -1
        for p in range(last):
            together[own[p], own[p]] += sums[until[p] - p]
            for q in range(p + 1, until[p] + 1):
                if power[q - p - 1] < NEGLIGIBLE:
                    break
                following[own[p], own[q]] += power[q - 1 - p]
                length = min(until[p], until[q]) - q
                if length > 0:
                    weight = power[q - p] * sums[length]
                    together[own[p], own[q]] += weight
                    together[own[q], own[p]] += weight
    return together, following
