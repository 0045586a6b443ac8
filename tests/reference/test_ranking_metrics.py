"""Ranking metrics: properties over generated cases, and inputs that must be refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.errors import UserError
from factorlm.metrics import accuracy, beyond, rows
from factorlm.metrics.ranking import BeyondMetrics, RankingMetrics
from factorlm.metrics.ranks import BLOCK, positive_ranks, rank_positives, top_scores
from tests.reference import oracles

SCORE = st.sampled_from([-1.0, -0.5, 0.0, 0.5])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_equals_the_mean_over_all_tie_breaks(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    scores = data.draw(st.lists(SCORE, min_size=size, max_size=size))
    grades = data.draw(st.dictionaries(st.integers(0, size - 1), st.sampled_from([1.0, 3.0, 5.0]), min_size=1))
    k = data.draw(st.integers(1, 8))
    expected = oracles.ranking(scores, grades, k, 5.0)
    example = rank_positives([scores], [list(grades)], [list(grades.values())])
    found = {name: metric(example, k).item() for name, metric in accuracy.BINARY.items()}
    found |= {"rated_ndcg": accuracy.rated_ndcg(example, k).item(), "err": accuracy.err(example, k, 5.0).item()}
    assert found == pytest.approx(expected, abs=1e-12)
    assert all(-1e-12 <= value <= 1 + 1e-12 for value in found.values())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_lists_equal_the_mean_over_all_tie_breaks(data: st.DataObject) -> None:
    size, k = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    rows = data.draw(st.lists(st.lists(SCORE, min_size=size, max_size=size), min_size=1, max_size=4))
    share = data.draw(st.lists(st.sampled_from([0.1, 0.25, 0.5]), min_size=size, max_size=size))
    genres = data.draw(st.lists(st.sets(st.sampled_from("abc")), min_size=size, max_size=size))
    features = torch.tensor([[float(letter in own) for letter in "abc"] for own in genres])
    metrics = BeyondMetrics([k], torch.arange(size), torch.tensor(share), torch.nn.functional.normalize(features))
    matrix, index = torch.tensor(rows), torch.arange(len(rows))
    metrics.update(index, index, matrix, top_scores(matrix, data.draw(st.integers(k, 7))))
    values = metrics.per_user()[1]
    for row, scores in enumerate(rows):
        expected = oracles.lists(scores, k, share, genres)
        found = {name: values[row, i].item() for i, name in enumerate(("novelty", "popularity", "diversity"))}
        assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    coverage, gini = oracles.exposure(rows, k)
    assert metrics.compute()[f"coverage@{k}"] == pytest.approx(coverage, abs=1e-12)
    assert metrics.compute()[f"gini@{k}"] == pytest.approx(gini, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_top_scores_are_those_of_torch(data: st.DataObject) -> None:
    seed, rows = data.draw(st.integers(0, 10**6)), data.draw(st.integers(1, 5))
    size = data.draw(st.sampled_from([1, 5, BLOCK - 1, BLOCK * 7, BLOCK * 50 + 3, BLOCK * 50]))
    depth = data.draw(st.integers(1, 20))
    generator = np.random.default_rng(seed)
    scores = torch.from_numpy(generator.normal(size=(rows, size)).astype(np.float32))
    scores = scores.round(decimals=data.draw(st.sampled_from([0, 1, 6])))
    scores[torch.from_numpy(generator.random((rows, size)) < 0.3)] = -torch.inf
    found, expected = top_scores(scores, depth), scores.topk(min(depth, size), 1).values
    assert torch.equal(found.values, expected)
    assert torch.equal(scores.gather(1, found.columns), expected)
    assert all(len(set(own.tolist())) == len(own) for own in found.columns)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_order_of_rows_and_candidates_and_batches_do_not_matter(seed: int, tied: bool) -> None:
    generator = np.random.default_rng(seed)
    users, size = 23, 90
    items = torch.arange(size)
    scores = generator.normal(size=(users, size)).astype(np.float32)
    scores = torch.from_numpy(np.round(scores, 1) if tied else scores)
    positives = generator.random((users, size)) < 0.1
    grades = torch.from_numpy(generator.uniform(1, 5, size=(users, size)))
    share = torch.from_numpy(generator.uniform(0.01, 1, size=size))
    features = torch.nn.functional.normalize(torch.from_numpy(generator.normal(size=(size, 7))))

    def values(rows: np.ndarray, columns: np.ndarray, batch_size: int) -> torch.Tensor:
        whole, made = (
            RankingMetrics([1, 5, 10], 5.0),
            BeyondMetrics([5], items[columns], share[columns], features[columns]),
        )
        for start in range(0, users, batch_size):
            own = rows[start : start + batch_size]
            batch = scores[own][:, columns].contiguous()
            row, column = np.nonzero(positives[own][:, columns])
            shuffled = generator.permutation(len(row))
            row, column = torch.from_numpy(row[shuffled]), torch.from_numpy(column[shuffled])
            index, top = torch.from_numpy(own), top_scores(batch, 60)
            whole.update(index, index, batch, row, column, grades[own][:, columns][row, column], top)
            made.update(index, index, batch, top)
        return torch.cat([whole.per_user()[1], made.per_user()[1]], 1).nan_to_num(-1)

    one = values(np.arange(users), np.arange(size), users)
    two = values(generator.permutation(users), generator.permutation(size), int(generator.integers(1, users)))
    assert torch.equal(one, two)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_a_positive_that_rises_never_costs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = np.round(generator.normal(size=20), 1)
    relevant = generator.choice(20, size=3, replace=False).tolist()
    better = scores.copy()
    better[relevant[0]] += generator.uniform(0, 2)
    before, after = (rank_positives([row.tolist()], [relevant]) for row in (scores, better))
    for name, metric in accuracy.BINARY.items():
        assert metric(after, 5) >= metric(before, 5) - 1e-12, name


def test_a_constant_scorer_scores_at_chance() -> None:
    example = rank_positives([[0.0] * 100], [[3, 50]])
    assert accuracy.precision(example, 10).item() == pytest.approx(2 / 100)
    assert accuracy.recall(example, 10).item() == pytest.approx(10 / 100)


def test_a_positive_that_is_no_candidate_is_missed() -> None:
    metrics = RankingMetrics([2], 5.0)
    scores, zero = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([0, 0])
    metrics.update(zero[:1], zero[:1], scores, zero, torch.tensor([0, -1]), torch.tensor([4.0, 5.0]))
    found = metrics.compute()
    assert found["recall@2"] == 0.5
    assert found["ndcg@2"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert found["rated_ndcg@2"] == pytest.approx(4 / (5 + 4 / np.log2(3)))
    nothing = RankingMetrics([2])
    nothing.update(zero[:1], zero[:1], torch.full((1, 3), -torch.inf), zero[:1], zero[:1] - 1)
    assert set(nothing.compute().values()) == {0.0}


def test_users_without_positives_count_in_no_mean() -> None:
    metrics = RankingMetrics([2])
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    metrics.update(torch.tensor([0, 1]), torch.tensor([7, 4]), scores, torch.tensor([0]), torch.tensor([0]))
    assert metrics.compute()["recall@2"] == 1.0
    users, values = metrics.per_user()
    assert users.tolist() == [4, 7]
    assert values[0].isnan().all()


def test_a_user_with_several_questions_is_one_user() -> None:
    metrics = RankingMetrics([1])
    scores = torch.tensor([[3.0, 2.0], [3.0, 2.0], [2.0, 3.0]])
    metrics.update(torch.arange(3), torch.tensor([5, 5, 6]), scores, torch.arange(3), torch.tensor([0, 1, 0]))
    assert metrics.per_user()[1][:, 0].tolist() == [0.5, 0.0]
    assert metrics.compute()["hit@1"] == 0.25


def test_a_question_counts_once_and_may_not_contradict_itself() -> None:
    metrics = RankingMetrics([1])
    zero, scores = torch.tensor([0]), torch.tensor([[3.0, 2.0]])
    metrics.update(zero, zero, scores, zero, zero)
    metrics.update(zero, zero, scores, zero, zero)
    assert metrics.compute()["hit@1"] == 1.0
    metrics.reset()
    metrics.update(zero, zero, scores, zero, zero)
    metrics.update(zero, zero, -scores, zero, zero)
    with pytest.raises(ValueError, match="row 0 was evaluated twice with different values"):
        metrics.compute()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("size", [2, BLOCK * 40])
def test_refuses_scores_that_cannot_be_ranked(bad: float, size: int) -> None:
    scores = torch.zeros(1, size)
    scores[0, -1] = bad
    place = torch.tensor([size - 1])
    with pytest.raises(ValueError, match="NaN|infinit"):
        positive_ranks(scores, top_scores(scores, 1), torch.tensor([0]), place)


def test_refuses_a_positive_given_twice() -> None:
    metrics, zero = RankingMetrics([1]), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="a positive is given twice"):
        metrics.update(zero[:1], zero[:1], torch.ones(1, 2), zero, zero)


def test_refuses_ratings_that_are_no_grades() -> None:
    metrics, zero = RankingMetrics([1], max_grade=4.0), torch.tensor([0])
    with pytest.raises(UserError, match=r"metrics.max_grade=4: there is a rating of 0, and grades are above 0"):
        metrics.update(zero, zero, torch.ones(1, 2), zero, zero, torch.tensor([0.0]))
    with pytest.raises(UserError, match=r"metrics.max_grade=4: there is a rating of 5"):
        metrics.update(zero, zero, torch.ones(1, 2), zero, zero, torch.tensor([5.0]))


def test_every_metric_explains_itself_by_an_example() -> None:
    functions = [*accuracy.BINARY.values(), accuracy.rated_ndcg, accuracy.err]
    functions += [getattr(beyond, name) for name in beyond.VERSIONS]
    functions += [rows.auc, rows.user_auc, rows.logloss, rows.calibration, rows.at_threshold, rows.best_threshold]
    assert all(">>>" in (function.__doc__ or "") for function in functions)
