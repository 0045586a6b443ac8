"""Compiled coordinate descent for non-negative elastic nets that share a Gram matrix. Shapes: I items, A active."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

FIRST = 64  # columns that become active at once, and as many as there are from then on


def elastic_net(gram: Matrix, j: int, l1: float, l2: float, tolerance: float) -> tuple[Index, Vector]:
    """Columns [A] whose weight in the regression of column j on the others is above 0, and their weights [A].

    Covariance updates (J. Friedman, T. Hastie and R. Tibshirani, J. Stat. Softw. 33(1), 2010, section 2.2): with the
    gradient g = G_j - G w a coordinate moves to max(0, g_i + G_ii w_i - l1) / (G_ii + l2). The descent runs on a set of
    active columns, which those leave whose weight becomes 0 and those join that would lower the objective most, until
    none outside it would move by more than the tolerance.

    Args:
        gram: G = X'X [I, I].
        j: the column.
        l1, l2: penalties.
        tolerance: largest move of a weight that is left undone.
    """
    curvature = gram.diagonal().astype(np.float64) + l2
    active, weights = np.empty(0, np.int64), np.empty(0)
    while True:
        gradient = _gradient(gram, j, active, weights)
        excess = gradient - l1
        excess[j] = excess[active] = 0.0
        gain = np.where(excess > tolerance * curvature, excess, 0.0) ** 2 / np.maximum(curvature, 1.0)
        moving = int(np.count_nonzero(gain))
        if not moving:
            return active, weights
        many = min(moving, max(FIRST, len(active)))
        active = np.concatenate([active, np.argpartition(-gain, many - 1)[:many]])
        weights = np.concatenate([weights, np.zeros(many)])
        own = gram[np.ix_(active, active)].astype(np.float64)
        _descend(own, gradient[active], curvature[active], weights, l1, tolerance)
        active, weights = active[weights > 0], weights[weights > 0]


@numba.njit(cache=True)
def _gradient(gram: Matrix, j: int, active: Index, weights: Vector) -> Vector:
    """``gram[j] - weights @ gram[active]`` [I]."""
    size = len(gram)
    gradient = np.empty(size)
    for i in range(size):
        gradient[i] = gram[j, i]
    for place in range(len(active)):
        weight, row = weights[place], active[place]
        for i in range(size):
            gradient[i] -= weight * gram[row, i]
    return gradient


@numba.njit(cache=True)
def _descend(own: Vector, gradient: Vector, curvature: Vector, weights: Vector, l1: float, tolerance: float) -> None:
    """Move the weights [A], in rounds, until none moves by more than the tolerance; ``own`` [A, A] is of G."""
    largest = np.inf
    while largest > tolerance:
        largest = 0.0
        for place in range(len(weights)):
            old = weights[place]
            new = max(0.0, gradient[place] + own[place, place] * old - l1) / curvature[place]
            step = new - old
            if step != 0.0:
                weights[place] = new
                for other in range(len(weights)):
                    gradient[other] -= step * own[place, other]
                largest = max(largest, abs(step))
