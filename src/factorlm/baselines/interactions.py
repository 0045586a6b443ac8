"""The training rows as a matrix. Shapes: U users, I items."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from factorlm.baselines.base import TrainingData

Matrix = npt.NDArray[np.float32]


def positive_matrix(data: TrainingData) -> sp.csr_array:
    """X [U, I], float32: 1 where a user has a positive row of an item, however many."""
    users, items = (index[data.labels].numpy() for index in (data.users, data.items))
    ones = np.ones(len(users), np.float32)
    matrix = sp.coo_array((ones, (users, items)), shape=(data.num_users, data.num_items)).tocsr()
    matrix.data[:] = 1.0  # repeats were summed
    matrix.sort_indices()
    return matrix


def gram(matrix: sp.csr_array) -> Matrix:
    """X'X [I, I], float32, which counts up to 16 million are exact in: how many users have both items."""
    dense: Matrix = (matrix.T @ matrix).toarray()
    return dense
