"""Gibbs sampling of a factorization machine whose columns describe users or items.

Shapes: n rows, N users or items of one side, P columns of the side, K factors.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.special import ndtr, ndtri

Vector = npt.NDArray[np.float64]
Index = npt.NDArray[np.uint32]

SHAPE, RATE, WEIGHT = 1.0, 0.1, 1.0  # of the hyperprior, see `draw_hyperparameters`
ROW_RATE = 0.01  # of columns of the rows: few rows may have them, and with RATE what they fit is noise
FIRST_PRECISION = 100.0  # of the prior that the first values are drawn with
LOWEST = -37.0  # ndtr is 0 in double precision below

# Columns of the moments [N, 8], over the rows of each user or item; 8 numbers are one line of the processor's cache.
SUM, COUNT, OTHER, OTHER2, ERROR, ERROR_OTHER, SHIFT = range(7)


def draw_latent(positive: npt.NDArray[np.bool_], score: Vector, rng: np.random.Generator) -> Vector:
    """Latent z ~ N(score, 1) above 0 where positive and below 0 elsewhere: [n]."""
    sign = np.where(positive, 1.0, -1.0)
    tail = (1.0 - rng.random(len(score))) * ndtr(np.maximum(sign * score, LOWEST))
    latent: Vector = score - sign * ndtri(tail)
    return latent


def draw_hyperparameters(
    values: Vector, groups: npt.NDArray[np.int64], rng: np.random.Generator, rate: float = RATE
) -> tuple[Vector, Vector]:
    """Mean and precision of the prior of each column: [P] each.

    Values of a group are N(mu, 1 / lambda), with lambda ~ Gamma(SHAPE / 2, rate / 2) and mu ~ N(0, 1 / (WEIGHT
    lambda)). Lambda is drawn with mu integrated out, then mu.
    """
    count, total, square = (np.bincount(groups, weights) for weights in (None, values, values**2))
    size = count + WEIGHT
    precision = rng.gamma((SHAPE + count) / 2) * 2 / (rate + square - total**2 / size)
    mean = total / size + rng.standard_normal(len(size)) / np.sqrt(precision * size)
    return mean[groups], precision[groups]


@numba.njit(cache=True)
def gather(own: Index, other: Index, other_sums: Vector, residual: Vector, moments: Vector) -> None:
    """Sum, over the rows of each user or item, g, g^2, e and e g of residuals e and the other side's sums g."""
    moments[:, OTHER:] = 0.0
    for n in range(residual.size):
        moment, g, e = moments[own[n]], other_sums[other[n]], residual[n]
        moment[OTHER] += g
        moment[OTHER2] += g * g
        moment[ERROR] += e
        moment[ERROR_OTHER] += e * g


@numba.njit(cache=True)
def sweep(
    offsets: Index,
    places: Index,
    inputs: Vector,
    paired: bool,
    mean: Vector,
    precision: Vector,
    noise: Vector,
    values: Vector,
    moments: Vector,
) -> None:
    r"""Draw the values of one side's columns, one after the other, each given all the others.

    A row with column j has the score :math:`v_j h + ` rest, with :math:`h = x_j (q - v_j x_j + g)`: q is the sum of v x
    on this side of the row, g on the other. Hence

    .. math:: v_j \sim N((\lambda\mu + \sum h (e + v_j h)) / a, 1 / a), \quad a = \lambda + \sum h^2

    S. Rendle, Factorization machines with libFM, ACM TIST 3(3), 2012. Both sums run over the users or items that have
    the column instead of their rows, with the rows' moments: S. Rendle, Scaling factorization machines to relational
    data, VLDB 2013.

    Args:
        offsets, places, inputs: the design [N, P] in compressed columns.
        paired: whether columns of this side form pairs; without, h = x g.
        mean, precision: [P] of the prior.
        noise: [P] standard normal.
        values: [P], written.
        moments: [N, 8], written: see `gather`; afterwards ``SHIFT`` and the growth of ``SUM`` tell what a row's score
            rose by, SHIFT + growth g.
    """
    for j in range(values.size):
        old = values[j]
        square, product = 0.0, 0.0
        for k in range(offsets[j], offsets[j + 1]):
            moment, x = moments[places[k]], inputs[k]
            rest = moment[SUM] - old * x if paired else 0.0
            square += x * x * (rest * (rest * moment[COUNT] + 2 * moment[OTHER]) + moment[OTHER2])
            product += x * (rest * moment[ERROR] + moment[ERROR_OTHER])
        total = precision[j] + square
        values[j] = (precision[j] * mean[j] + product + old * square) / total + noise[j] / math.sqrt(total)
        for k in range(offsets[j], offsets[j + 1]):
            moment, x = moments[places[k]], inputs[k]
            rest = moment[SUM] - old * x if paired else 0.0
            step = (values[j] - old) * x
            moment[ERROR] -= step * (rest * moment[COUNT] + moment[OTHER])
            moment[ERROR_OTHER] -= step * (rest * moment[OTHER] + moment[OTHER2])
            moment[SUM] += step
            moment[SHIFT] += step * rest


@numba.njit(cache=True)
def settle(own: Index, other: Index, other_sums: Vector, sums: Vector, moments: Vector, residual: Vector) -> None:
    """Take from the residuals what the scores rose by, and bring ``sums`` [N] up to date."""
    growth = moments[:, SUM] - sums
    sums[:] = moments[:, SUM]
    for n in range(residual.size):
        i = own[n]
        residual[n] -= moments[i, SHIFT] + growth[i] * other_sums[other[n]]


class Half:
    """One side of the machine, users or items.

    Args:
        rows: [n] user or item of each row.
        design: [N, P] inputs.
        groups: [P] group of each column, counted from 0; the columns of a group share a prior.
        num_factors: K.

    Attributes:
        values: [1 + K, P] linear weights w, then factors v; all 0 at first.
        sums: [1 + K, N] of w x, then of v x.
    """

    def __init__(
        self, rows: npt.NDArray[np.int64], design: sp.csc_array, groups: npt.NDArray[np.int64], num_factors: int
    ) -> None:
        size, width = design.shape
        self.rows, self._groups = rows.astype(np.uint32), groups
        self._design = design.indptr.astype(np.uint32), design.indices.astype(np.uint32), design.data
        self._squares = design**2
        self.values, self.sums = np.zeros((1 + num_factors, width)), np.zeros((1 + num_factors, size))
        self._priors = [(np.zeros(width), np.full(width, FIRST_PRECISION))] * (1 + num_factors)
        self._moments = np.zeros((size, 8))
        self._moments[:, COUNT] = np.bincount(rows, minlength=size)

    def draw(self, f: int, other: Index, other_sums: Vector, residual: Vector, rng: np.random.Generator) -> None:
        """Draw the linear weights (f = 0) or factor f of all columns and then its prior; update the residuals [n]."""
        values, sums, moments = self.values[f], self.sums[f], self._moments
        noise = rng.standard_normal(len(values))
        moments[:, SUM] = sums
        gather(self.rows, other, other_sums, residual, moments)
        sweep(*self._design, f > 0, *self._priors[f], noise, values, moments)
        settle(self.rows, other, other_sums, sums, moments, residual)
        self._priors[f] = draw_hyperparameters(values, self._groups, rng)

    def terms(self) -> Vector:
        """What this side adds by itself, linear terms and the pairs within it: [N]."""
        pairs = (self.sums[1:] ** 2).sum(0) - self._squares @ (self.values[1:] ** 2).sum(0)
        terms: Vector = self.sums[0] + pairs / 2
        return terms


class Columns:
    """Columns of the rows themselves, which have linear weights and form no pairs.

    Args:
        inputs: [n, P].
        groups: [P] group of each column, counted from 0; the columns of a group share a prior.

    Attributes:
        weights: [P]; all 0 at first.
    """

    def __init__(self, inputs: Vector, groups: npt.NDArray[np.int64]) -> None:
        self._inputs, self._groups = np.asfortranarray(inputs), groups
        width = inputs.shape[1]
        self._squares, self.weights = (inputs**2).sum(0), np.zeros(width)
        self._prior = np.zeros(width), np.full(width, FIRST_PRECISION)

    def draw(self, residual: Vector, rng: np.random.Generator) -> None:
        """Draw the weights one after the other, each given all the others, and then their prior; update residuals."""
        mean, precision = self._prior
        noise = rng.standard_normal(len(self.weights))
        for j, old in enumerate(self.weights):
            column, total = self._inputs[:, j], precision[j] + self._squares[j]
            product = column @ residual + self._squares[j] * old
            self.weights[j] = (precision[j] * mean[j] + product) / total + noise[j] / math.sqrt(total)
            residual -= (self.weights[j] - old) * column
        self._prior = draw_hyperparameters(self.weights, self._groups, rng, ROW_RATE)


class GibbsSampler:
    """A Markov chain over the parameters of a factorization machine with a probit link.

    Args:
        labels: [n], true for a positive.
        users, items: the two sides.
        columns: of the rows.
        rng: source of all randomness.
    """

    def __init__(
        self, labels: npt.NDArray[np.bool_], users: Half, items: Half, columns: Columns, rng: np.random.Generator
    ) -> None:
        self._labels, self._halves, self._columns, self._rng = labels, (users, items), columns, rng
        self._bias, self._score = 0.0, np.zeros(len(labels))

    def step(self) -> None:
        """Draw the latent scores, the bias, linear weights and each factor, users before items, and the columns'."""
        latent = draw_latent(self._labels, self._score, self._rng)
        residual = latent - self._score
        move = residual.mean() + self._rng.standard_normal() / math.sqrt(len(residual))
        self._bias += move
        residual -= move
        users, items = self._halves
        for f in range(len(users.sums)):
            for own, other in ((users, items), (items, users)):
                other_sums = other.sums[f] if f else np.ones_like(other.sums[0])
                own.draw(f, other.rows, other_sums, residual, self._rng)
        self._columns.draw(residual, self._rng)
        self._score = latent - residual

    def sample(self) -> tuple[Vector, Vector, Vector]:
        """Vectors [1 + K, N] of users and of items, and weights [P] of the rows' columns.

        A pair scores the sum of the first numbers, <the rest> and <the weights, its columns>.
        """
        users, items = (np.vstack([half.terms(), half.sums[1:]]) for half in self._halves)
        users[0] += self._bias
        return users, items, self._columns.weights.copy()
