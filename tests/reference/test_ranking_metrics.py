"""Ranking metrics against brute force over all tie-breaks, and against ranx and scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranx import Qrels, Run, evaluate
from sklearn.metrics import ndcg_score

from factorlm.metrics.ranking import RankingMetrics
from factorlm.metrics.ranks import NAMES, positive_ranks, ranking_metrics


def brute_force(scores: list[float], positives: set[int], k: int) -> dict[str, float]:
    """Mean over every order that sorts the scores, by definition."""
    orders = [
        p
        for p in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(p))
    ]
    totals = dict.fromkeys(NAMES, 0.0)
    for order in orders:
        hits = [item in positives for item in order[:k]]
        n, h = len(positives), sum(hits)
        totals["precision"] += h / k
        totals["recall"] += h / n
        totals["f1"] += 2 * (h / k) * (h / n) / (h / k + h / n) if h else 0.0
        dcg = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits))
        totals["ndcg"] += dcg / sum(1 / math.log2(rank + 2) for rank in range(min(n, k)))
        totals["hit"] += h > 0
        totals["mrr"] += next((1 / (rank + 1) for rank, hit in enumerate(hits) if hit), 0.0)
    return {name: total / len(orders) for name, total in totals.items()}


def ours(scores: list[list[float]], positives: list[set[int]], ks: list[int]) -> dict[str, torch.Tensor]:
    rows = torch.tensor([row for row, items in enumerate(positives) for _ in items], dtype=torch.int64)
    columns = torch.tensor([item for items in positives for item in sorted(items)], dtype=torch.int64)
    return ranking_metrics(positive_ranks(torch.tensor(scores), rows, columns), rows, len(scores), ks)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_equals_the_mean_over_all_tie_breaks(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    scores = data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=size, max_size=size))
    positives = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    k = data.draw(st.integers(1, 8))
    expected = brute_force(scores, positives, k)
    found = ours([scores], [positives], [k])
    for name in NAMES:
        assert found[f"{name}@{k}"].item() == pytest.approx(expected[name], abs=1e-12), name


def test_agrees_with_ranx_without_ties() -> None:
    generator = np.random.default_rng(0)
    scores = generator.permuted(np.tile(np.arange(50.0), (200, 1)), axis=1)
    positives = [set(generator.choice(50, size=generator.integers(1, 9), replace=False).tolist()) for _ in range(200)]
    found = ours(scores.tolist(), positives, [10])
    qrels = Qrels({str(u): {str(i): 1 for i in items} for u, items in enumerate(positives)})
    run = Run({str(u): {str(i): float(s) for i, s in enumerate(row)} for u, row in enumerate(scores)})
    for name in NAMES:
        theirs = {"hit": "hit_rate"}.get(name, name)
        evaluate(qrels, run, f"{theirs}@10")
        per_query = run.scores[f"{theirs}@10"]
        expected = np.array([per_query[str(u)] for u in range(200)])
        assert np.abs(found[f"{name}@10"].numpy() - expected).max() < 1e-6, name


def test_ndcg_agrees_with_scikit_learn_with_ties() -> None:
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 5, size=(100, 30)).astype(float)
    relevant = generator.random((100, 30)) < 0.15
    relevant[:, 0] |= ~relevant.any(1)
    found = ours(scores.tolist(), [set(np.flatnonzero(row).tolist()) for row in relevant], [10])["ndcg@10"]
    expected = [ndcg_score(relevant[u : u + 1], scores[u : u + 1], k=10) for u in range(100)]
    assert np.allclose(found.numpy(), expected, atol=1e-9)


def test_a_constant_scorer_scores_at_chance() -> None:
    found = ours([[0.0] * 100], [{3, 50}], [10])
    assert found["precision@10"].item() == pytest.approx(2 / 100)
    assert found["recall@10"].item() == pytest.approx(10 / 100)


def test_users_without_positives_count_in_no_mean() -> None:
    metrics = RankingMetrics([2])
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    metrics.update(torch.tensor([7, 4]), scores, torch.tensor([0]), torch.tensor([0]))
    assert metrics.compute()["recall@2"] == 1.0
    users, values = metrics.per_user()
    assert users.tolist() == [4, 7]
    assert values[0].isnan().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_refuses_scores_that_cannot_be_ranked(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN|infinite"):
        positive_ranks(torch.tensor([[bad, 0.0]]), torch.tensor([0]), torch.tensor([0]))


def test_batches_do_not_change_values() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 60, generator=generator).round(decimals=1)
    rows, columns = torch.arange(40).repeat_interleave(2), torch.randint(60, (80,), generator=generator)
    columns[1::2] = (columns[::2] + 1) % 60
    whole, parts = RankingMetrics([5, 10]), RankingMetrics([5, 10])
    whole.update(torch.arange(40), scores, rows, columns)
    for start in (24, 0, 8):
        end = {24: 40, 0: 8, 8: 24}[start]
        inside = (rows >= start) & (rows < end)
        parts.update(torch.arange(start, end), scores[start:end], rows[inside] - start, columns[inside])
    assert torch.equal(whole.per_user()[1], parts.per_user()[1])
