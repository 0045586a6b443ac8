"""The compiled part of `factorlm.metrics.ranks.top_scores`. Shapes: U rows, N scores, M blocks of neighbouring ones."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@numba.njit(cache=True, nogil=True)
def _insert(value: float, column: int, size: int, values: Array, columns: Array) -> int:
    """Insert into a descending list of which the first ``size`` are taken; how many are now."""
    place = min(size, len(values) - 1)
    while place > 0 and values[place - 1] < value:
        values[place], columns[place] = values[place - 1], columns[place - 1]
        place -= 1
    values[place], columns[place] = value, column
    return min(size + 1, len(values))


@numba.njit(cache=True, nogil=True)
def largest(scores: Array, maxima: Array, block: int, values: Array, columns: Array) -> None:
    """The largest scores of each row, descending, which lie in the blocks with the largest maxima.

    Args:
        scores: [U, N].
        maxima: [U, M] of blocks of ``block`` scores; the last may have fewer.
        block: scores of a block.
        values, columns: [U, depth], filled; depth is at most M.
    """
    depth = values.shape[1]
    peaks, blocks = np.empty(depth, scores.dtype), np.empty(depth, np.int64)
    for u in range(len(scores)):
        size = 0
        for b in range(maxima.shape[1]):
            if size < depth or maxima[u, b] > peaks[depth - 1]:
                size = _insert(maxima[u, b], b, size, peaks, blocks)
        size = 0
        for chosen in blocks:
            for c in range(chosen * block, min((chosen + 1) * block, scores.shape[1])):
                if size < depth or scores[u, c] > values[u, depth - 1]:
                    size = _insert(scores[u, c], c, size, values[u], columns[u])
