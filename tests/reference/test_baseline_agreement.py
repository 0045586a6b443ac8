"""Baselines against the formulas of their papers, written out densely, and against what other libraries computed.

golden/baselines.json holds what RecBole 1.2.1 and LensKit 2025.8.1 gave for a matrix of 12 users and 10 items:
`scripts/agreement_of_baselines.py --golden` prints it, and without ``--golden`` compares all scores of MovieLens-100K.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from implicit.cpu.als import AlternatingLeastSquares
from sklearn.linear_model import ElasticNet

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.ease import EASE
from factorlm.baselines.ials import IALS
from factorlm.baselines.item_knn import ItemKNN
from factorlm.baselines.slim import SLIM
from factorlm.baselines.slist import SLIST
from factorlm.baselines.text_knn import TextKNN
from factorlm.baselines.user_knn import UserKNN
from factorlm.scoring import Contexts

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "baselines.json").read_text())
TOLERANCE = 1e-5

matrices = arrays(np.bool_, st.tuples(st.integers(2, 12), st.integers(2, 9))).filter(lambda matrix: matrix.any())
shares = st.sampled_from([0.0, 0.25, 0.6])
weights = st.sampled_from([0.5, 3.0, 20.0])


def data(matrix: np.ndarray, vectors: np.ndarray | None = None) -> TrainingData:
    """A training row for each entry of a matrix [U, I], each later than those before it."""
    users, items = (torch.from_numpy(index) for index in matrix.nonzero())
    labels, times = torch.ones(len(users), dtype=torch.bool), torch.arange(len(users))
    text = None if vectors is None else torch.from_numpy(vectors.astype(np.float32))
    return TrainingData(users, items, labels, times, *matrix.shape, 1, text, {}, {})


def scores(model: Baseline, matrix: np.ndarray, vectors: np.ndarray | None = None) -> np.ndarray:
    """Fit, and score all items for all users given their training items, in the order of the items."""
    model.fit(data(matrix, vectors))
    counts = torch.from_numpy(matrix.sum(1))
    ends = counts.cumsum(0)
    users, log = torch.arange(len(matrix)), torch.from_numpy(matrix.nonzero()[1])
    catalogue = model.catalogue(Contexts(users, ends - counts, ends, log), torch.arange(matrix.shape[1]))
    return catalogue.cross(users).numpy()


def recent(matrix: np.ndarray, recency: float) -> np.ndarray:
    """Rows [U, I] in which the k-th item from the end weighs ``recency ** k``."""
    after = matrix.sum(1, keepdims=True) - matrix.cumsum(1)
    return np.where(matrix, recency ** after.astype(float), 0.0)


def cosine(rows: np.ndarray, others: np.ndarray, shrinkage: float) -> np.ndarray:
    norms = np.outer(np.sqrt((rows**2).sum(1)), np.sqrt((others**2).sum(1)))
    return rows @ others.T / (norms + shrinkage + 1e-6)


def ridge(inputs: np.ndarray, targets: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Column by column: weights [I, I] of a ridge regression of each target on all inputs but its own."""
    size = inputs.shape[1]
    found = np.zeros((size, size))
    for column in range(size):
        others = np.arange(size) != column
        left = inputs[:, others].T @ inputs[:, others] + np.diag(penalty[others])
        found[others, column] = np.linalg.solve(left, inputs[:, others].T @ targets[:, column])
    return found


@settings(max_examples=30, deadline=None)
@given(matrices, weights, shares, st.sampled_from([1.0, 0.7]))
def test_ease_is_a_ridge_regression_on_the_other_items(
    matrix: np.ndarray, l2: float, dropout: float, recency: float
) -> None:
    x = matrix.astype(float)
    expected = recent(matrix, recency) @ ridge(x, x, l2 + dropout / (1 - dropout) * x.sum(0))
    found = scores(EASE(l2=l2, dropout=dropout, recency=recency), matrix)
    assert np.abs(found - expected).max() < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(matrices, st.sampled_from([0.0, 0.3, 1.0]), weights, st.sampled_from([1.0, 0.7]))
def test_slist_is_a_ridge_regression_of_next_items_and_of_sets(
    matrix: np.ndarray, alpha: float, l2: float, recency: float
) -> None:
    size, inputs, targets = matrix.shape[1], [], []
    for row in matrix:
        items = row.nonzero()[0]
        for place in range(1, len(items)):
            past = np.zeros(size)
            past[items[:place]] = recency ** np.arange(place - 1, -1, -1.0)
            inputs.append(past)
            targets.append(np.eye(size)[items[place]])
    s, t = (np.array(rows).reshape(-1, size) * alpha**0.5 for rows in (inputs, targets))
    x = matrix * (1 - alpha) ** 0.5
    weights = ridge(np.concatenate([s, x]), np.concatenate([t, x]), np.full(size, l2))
    found = scores(SLIST(alpha=alpha, l2=l2, recency=recency), matrix)
    assert np.abs(found - recent(matrix, recency) @ weights).max() < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(matrices, st.sampled_from([0.01, 0.3, 1.5]), weights)
def test_slim_is_scikit_learns_elastic_net(matrix: np.ndarray, l1: float, l2: float) -> None:
    users, size = matrix.shape
    x, expected = matrix.astype(float), np.zeros((size, size))
    net = ElasticNet(
        alpha=(l1 + l2) / users, l1_ratio=l1 / (l1 + l2), positive=True, fit_intercept=False, tol=1e-10, max_iter=10_000
    )
    for column in range(size):
        others = np.arange(size) != column
        if x[:, column].any():
            expected[others, column] = net.fit(x[:, others], x[:, column]).coef_
    found = scores(SLIM(l1=l1, l2=l2, tolerance=1e-9, recency=1.0), matrix)
    assert np.abs(found - x @ expected).max() < TOLERANCE


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(1, 10), st.sampled_from([0.0, 2.0]), st.sampled_from([1.0, 0.7]))
def test_item_knn_adds_up_the_nearest_items(matrix: np.ndarray, k: int, shrinkage: float, recency: float) -> None:
    """Where it is open which of equally near items is the k-th, either is right."""
    similarity = cosine(matrix.T.astype(float), matrix.T.astype(float), shrinkage)
    np.fill_diagonal(similarity, 0.0)
    model = ItemKNN(k=k, shrinkage=shrinkage, recency=recency)
    found = scores(model, matrix)
    kept = model.similarity.matrix().toarray()
    chosen = kept > 0
    assert np.allclose(kept[chosen], similarity[chosen], rtol=1e-6)
    assert np.allclose(-np.sort(-kept, 1)[:, :k], -np.sort(-similarity, 1)[:, :k], rtol=1e-6)
    assert (chosen.sum(1) <= k).all()
    assert np.abs(found - recent(matrix, recency) @ kept.T).max() < TOLERANCE


@settings(max_examples=40, deadline=None)
@given(matrices, st.integers(1, 12), st.sampled_from([0.0, 2.0]), st.sampled_from([1.0, 0.7]))
def test_user_knn_adds_up_the_nearest_users(matrix: np.ndarray, k: int, shrinkage: float, recency: float) -> None:
    x = matrix.astype(float)
    similarity = cosine(recent(matrix, recency), x, shrinkage)
    np.fill_diagonal(similarity, 0.0)
    rounded = similarity.astype(np.float32).round(6)
    expected = np.zeros_like(x)
    for user, row in enumerate(rounded):
        if len(row) > k and np.diff(np.sort(row)[::-1])[k - 1] == 0:
            return  # a tie at the k-th place, that rounding may decide
        nearest = np.argsort(-row, kind="stable")[:k]
        expected[user] = similarity[user, nearest] @ x[nearest]
    assert np.abs(scores(UserKNN(k=k, shrinkage=shrinkage, recency=recency), matrix) - expected).max() < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(matrices, st.integers(0, 99), st.integers(1, 9), st.sampled_from([1.0, 0.7]))
def test_text_knn_adds_up_the_cosines_of_centered_vectors(
    matrix: np.ndarray, seed: int, k: int, recency: float
) -> None:
    """Over the nearest items that training has; for items that it has not, too."""
    vectors = np.random.default_rng(seed).normal(size=(matrix.shape[1], 5))
    known = matrix.any(0)
    centered = vectors - vectors[known].mean(0)
    similarity = cosine(centered, centered, 0.0)
    similarity[:, ~known] = 0.0
    np.fill_diagonal(similarity, 0.0)
    kept = np.zeros_like(similarity)
    for item, row in enumerate(similarity):
        nearest = np.argsort(-row)[:k]
        kept[item, nearest] = row[nearest]
    found = scores(TextKNN(k=k, recency=recency), matrix, vectors)
    assert np.abs(found - recent(matrix, recency) @ kept.T).max() < TOLERANCE


@settings(max_examples=20, deadline=None)
@given(matrices, st.sampled_from([0.5, 1.0, 8.0]), weights)
def test_ials_folds_in_as_implicit_does(matrix: np.ndarray, alpha: float, l2: float) -> None:
    """The factor of a history is the minimum of its weighted squares, and implicit's own ``recalculate_user``."""
    model = IALS(num_factors=4, l2=l2, alpha=alpha, iterations=3)
    found = scores(model, matrix)
    items = model.item_factors.numpy().astype(float)
    library = AlternatingLeastSquares(
        factors=4, regularization=l2, alpha=alpha, iterations=3, num_threads=1, random_state=1
    )
    rows = sp.csr_matrix(matrix.astype(np.float32))
    library.fit(rows, show_progress=False)
    assert np.array_equal(library.item_factors, model.item_factors.numpy())
    theirs = library.recalculate_user(np.arange(len(matrix)), rows) @ library.item_factors.T
    for user, row in enumerate(matrix):
        confidence = np.where(row, alpha, 1.0)
        left = items.T @ (confidence[:, None] * items) + l2 * np.eye(4)
        factor = np.linalg.solve(left, items.T @ (confidence * row))
        assert np.abs(found[user] - items @ factor).max() < TOLERANCE
    assert np.abs(found - theirs).max() < 1e-4  # float32


@pytest.mark.parametrize("peer", ["recbole", "lenskit"])
def test_ease_gives_the_scores_of(peer: str) -> None:
    model = EASE(l2=GOLDEN["l2"], dropout=0.0, recency=1.0)
    assert np.abs(scores(model, golden_matrix()) - GOLDEN[peer]["ease"]).max() < TOLERANCE
    assert np.abs(model.weights.T.numpy() - GOLDEN[peer]["ease weights"]).max() < TOLERANCE


def test_item_knn_gives_the_scores_of_recbole() -> None:
    model = ItemKNN(k=GOLDEN["k"], shrinkage=0.0, recency=1.0)
    assert np.abs(scores(model, golden_matrix()) - GOLDEN["recbole"]["item_knn k=4 shrinkage=0"]).max() < TOLERANCE


def test_similarities_are_those_of_lenskit() -> None:
    model = ItemKNN(k=10, shrinkage=0.0, recency=1.0)
    model.fit(data(golden_matrix()))
    assert np.abs(model.similarity.matrix().toarray() - GOLDEN["lenskit"]["cosine"]).max() < TOLERANCE


def test_user_knn_gives_the_scores_of_recbole() -> None:
    model = UserKNN(k=12, shrinkage=0.0, recency=1.0)
    assert np.abs(scores(model, golden_matrix()) - GOLDEN["recbole"]["user_knn k=12 shrinkage=0"]).max() < TOLERANCE


def golden_matrix() -> np.ndarray:
    matrix = np.zeros((12, 10), np.bool_)
    matrix[GOLDEN["users"], GOLDEN["items"]] = True
    return matrix
