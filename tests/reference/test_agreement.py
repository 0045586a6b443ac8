"""Ten thousand and more generated cases against ranx, trec_eval, scikit-learn and brute force.

A case is one user: a list of scores, positives with grades, and a cut-off. The number of cases is printed at the end of
the test run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch
from ranx import Qrels, Run, evaluate
from sklearn.metrics import accuracy_score, f1_score, log_loss, ndcg_score, precision_score, recall_score, roc_auc_score

from factorlm.evaluation.foreign import read_qrels, read_run, score_run
from factorlm.metrics import accuracy
from factorlm.metrics.ranking import RankingMetrics
from factorlm.metrics.rows import row_metrics
from tests.reference import oracles

TOLERANCE = 1e-6


def ours(
    scores: np.ndarray, positives: list[dict[int, float]], ks: list[int], max_grade: float | None = None
) -> dict[str, np.ndarray]:
    """Values of each row through the shell, so that the depth of the search is cut at the largest k."""
    metrics = RankingMetrics(ks, max_grade)
    entries = [(row, item, grade) for row, items in enumerate(positives) for item, grade in items.items()]
    rows, columns, grades = (torch.tensor(column) for column in zip(*entries, strict=True))
    index = torch.arange(len(scores))
    metrics.update(index, index, torch.from_numpy(scores).float(), rows, columns, grades)
    users, values = metrics.per_user()
    assert users.tolist() == index.tolist()
    return {name: values[:, i].numpy() for i, name in enumerate(metrics.names)}


def draw(generator: np.random.Generator, users: int, items: int, most: int) -> list[dict[int, float]]:
    sizes = generator.integers(1, most + 1, size=users)
    return [
        {int(i): float(generator.integers(1, 6)) for i in generator.choice(items, size=size, replace=False)}
        for size in sizes
    ]


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[int, str], None]:
    """Add a line to the end of the test run."""
    return lambda cases, oracle: record_property("agreement", f"{cases:,} cases agree with {oracle} within 1e-6")


@pytest.mark.parametrize("shape", [(1500, 60, 9), (1500, 12, 12), (1000, 700, 40)], ids=str)
def test_ranx_and_trec_eval(shape: tuple[int, int, int], report: Callable[[int, str], None]) -> None:
    """Without ties, whose order they take from positions and ids."""
    generator = np.random.default_rng(shape)
    users, items, most = shape
    scores = generator.permuted(np.tile(np.arange(items) - items / 2.0, (users, 1)), axis=1)  # half of them negative
    positives = draw(generator, users, items, most)
    found = ours(scores, positives, [1, 5, 10])
    truth = {f"{u}": {f"{i}": 1 for i in own} for u, own in enumerate(positives)}
    lists = {f"{u}": {f"{i}": float(s) for i, s in enumerate(row)} for u, row in enumerate(scores)}
    names = [f"{name}@{k}" for k in (1, 5, 10) for name in oracles.BINARY]
    run = Run(lists)
    evaluate(Qrels(truth), run, [name.replace("hit@", "hit_rate@") for name in names])
    for name in names:
        theirs = run.scores[name.replace("hit@", "hit_rate@")]
        assert np.abs(found[name] - [theirs[f"{u}"] for u in range(users)]).max() < TOLERANCE, name
    trec = {"precision": "P", "recall": "recall", "ndcg": "ndcg_cut", "hit": "success", "map": "map_cut"}
    measures = {f"{measure}.1,5,10" for measure in trec.values()}
    values = pytrec_eval.RelevanceEvaluator(truth, measures).evaluate(lists)
    for name, measure in trec.items():
        for k in (1, 5, 10):
            theirs = [values[f"{u}"][f"{measure}_{k}"] for u in range(users)]
            assert np.abs(found[f"{name}@{k}"] - theirs).max() < TOLERANCE, name
    report(users, "ranx and trec_eval")


@pytest.mark.slow
def test_ndcg_of_scikit_learn_with_ties(report: Callable[[int, str], None]) -> None:
    generator = np.random.default_rng(1)
    users = 3000
    scores = generator.integers(-2, 3, size=(users, 30)).astype(float)
    scores[::7] = 0.0  # all equal
    positives = draw(generator, users, 30, 6)
    relevant = np.zeros((users, 30))
    for row, own in enumerate(positives):
        relevant[row, list(own)] = list(own.values())
    found = ours(scores, positives, [3, 10, 40], max_grade=5.0)
    for k in (3, 10, 40):
        graded = [ndcg_score(relevant[u : u + 1], scores[u : u + 1], k=k) for u in range(users)]
        assert np.abs(found[f"rated_ndcg@{k}"] - graded).max() < TOLERANCE
        binary = [ndcg_score(relevant[u : u + 1] > 0, scores[u : u + 1], k=k) for u in range(users)]
        assert np.abs(found[f"ndcg@{k}"] - binary).max() < TOLERANCE
    report(users, "scikit-learn's NDCG with ties")


def test_brute_force_over_all_tie_breaks(report: Callable[[int, str], None]) -> None:
    generator = np.random.default_rng(2)
    cases = 0
    for _ in range(60):
        items, k = int(generator.integers(1, 7)), int(generator.integers(1, 9))
        levels = generator.integers(1, 5)
        scores = generator.choice([-1.5, 0.0, 0.5, 3.0], size=(60, items))
        scores = np.where(scores > levels, 0.0, scores)
        positives = draw(generator, 60, items, items)
        found = ours(scores, positives, [k], max_grade=5.0)
        for row in range(60):
            expected = oracles.ranking(scores[row].tolist(), positives[row], k, 5.0)
            for name, value in expected.items():
                assert abs(found[f"{name}@{k}"][row] - value) < 1e-9, (name, scores[row], positives[row], k)
            cases += 1
    report(cases, "brute force over all tie-breaks")


@pytest.mark.slow
def test_pointwise_metrics_of_scikit_learn(report: Callable[[int, str], None]) -> None:
    generator = np.random.default_rng(3)
    cases = 600
    for case in range(cases):
        size = int(generator.integers(2, 40))
        labels = generator.integers(0, 2, size=size)
        labels[:2] = 0, 1
        scores = generator.normal(size=size) * generator.choice([0.1, 1.0, 5.0])
        scores = np.round(scores, 1) if case % 2 else scores
        users = generator.integers(0, 4, size=size)
        columns = map(torch.from_numpy, (users, labels, scores))
        found = row_metrics(*columns, probabilities=False, threshold=0.4)
        probability = 1 / (1 + np.exp(-scores))
        called = probability >= 0.4
        own = {
            u: roc_auc_score(labels[users == u], scores[users == u])
            for u in found.users.tolist()
            if len(set(labels[users == u])) == 2
        }
        rows, positives = [(users == u).sum() for u in own], [labels[users == u].sum() for u in own]
        expected = {
            "auc": roc_auc_score(labels, scores),
            "logloss": log_loss(labels, probability),
            "accuracy": accuracy_score(labels, called),
            "precision": precision_score(labels, called, zero_division=math.nan),
            "recall": recall_score(labels, called),
            "f1": f1_score(labels, called),
            "uauc": np.mean(list(own.values())) if own else math.nan,
            "uauc_rows": np.average(list(own.values()), weights=rows) if own else math.nan,
            "uauc_positives": np.average(list(own.values()), weights=positives) if own else math.nan,
        }
        for name, value in expected.items():
            assert found.values[name] == pytest.approx(value, abs=TOLERANCE, nan_ok=True), name
            assert float(found.shares[name].nanmean()) == pytest.approx(value, abs=TOLERANCE, nan_ok=True), name
    report(cases, "scikit-learn's pointwise metrics")


def test_every_metric_has_an_oracle() -> None:
    assert set(accuracy.VERSIONS) == {*oracles.BINARY, "rated_ndcg", "err"}
    assert tuple(accuracy.BINARY) == oracles.BINARY


def test_golden_files_score_as_trec_eval_scored_them() -> None:
    """Graded, with negative scores, a user without a list, and relevant items that no list has."""
    folder = Path(__file__).parent / "golden"
    qrels = read_qrels(str(folder / "qrels.txt"), {}, 1.0)
    found = score_run(qrels, read_run(str(folder / "run.txt"), {}), [10]).values
    for name, value in json.loads((folder / "trec_eval.json").read_text()).items():
        assert found[name] == pytest.approx(value, abs=TOLERANCE), name
