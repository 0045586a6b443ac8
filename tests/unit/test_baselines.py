"""What every baseline promises, and what each one says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.bias import Bias
from factorlm.baselines.ease import EASE
from factorlm.baselines.histories import history_rows
from factorlm.baselines.ials import IALS
from factorlm.baselines.item_knn import ItemKNN
from factorlm.baselines.popularity import DAY, Popularity
from factorlm.baselines.random import Random
from factorlm.baselines.slim import SLIM
from factorlm.baselines.slist import SLIST
from factorlm.baselines.text_knn import TextKNN
from factorlm.baselines.transitions import transition_sums
from factorlm.baselines.user_knn import UserKNN, keep_largest
from factorlm.errors import UserError
from factorlm.scoring import Contexts, Rated
from factorlm.training.checkpoint import load_checkpoint, save_checkpoint

USERS, ITEMS, COLD = 130, 90, 5  # the last items have no training row

BASELINES: dict[str, Callable[[], Baseline]] = {
    "popularity": lambda: Popularity(half_life=None),
    "recent popularity": lambda: Popularity(half_life=2.0),
    "random": Random,
    "bias": lambda: Bias(prior=10.0, latest=None),
    "item_knn": lambda: ItemKNN(k=7, shrinkage=1.0, recency=0.9),
    "user_knn": lambda: UserKNN(k=7, shrinkage=1.0, recency=0.9),
    "ease": lambda: EASE(l2=5.0, dropout=0.2, recency=1.0),
    "slist": lambda: SLIST(alpha=0.5, l2=5.0, recency=0.8),
    "slim": lambda: SLIM(l1=0.5, l2=2.0, tolerance=1e-4, recency=0.9),
    "ials": lambda: IALS(num_factors=8, l2=1.0, alpha=4.0, iterations=3),
    "text_knn": lambda: TextKNN(k=7, recency=1.0),
}
BY_HISTORY = ("item_knn", "user_knn", "ease", "slist", "slim", "ials", "text_knn")


def rows(seed: int = 0, users: int = USERS, items: int = ITEMS, cold: int = COLD) -> TrainingData:
    """Training rows of some taste: half of a user's items have the user's parity."""
    generator = np.random.default_rng(seed)
    pairs = [
        (user, item)
        for user in range(users)
        for item in generator.permutation(items - cold)[: generator.integers(2, 15)]
        if (user + item) % 2 == 0 or generator.random() < 0.3
    ]
    index = torch.tensor(pairs, dtype=torch.int64)
    times = torch.from_numpy(generator.integers(0, 50 * DAY, len(pairs)))
    vectors = torch.from_numpy(generator.normal(size=(items, 12)).astype(np.float32))
    labels = torch.ones(len(pairs), dtype=torch.bool)
    return TrainingData(index[:, 0], index[:, 1], labels, times, users, items, 3, vectors, {}, {})


def contexts(data: TrainingData) -> Contexts:
    """The training history of each user, in order of time."""
    order = np.lexsort((data.timestamps.numpy(), data.users.numpy()))
    counts = torch.bincount(data.users, minlength=data.num_users)
    return histories(data.items[torch.from_numpy(order)].split(counts.tolist()))


def histories(lists: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> Contexts:
    counts = torch.tensor([len(items) for items in lists])
    ends = counts.cumsum(0)
    return Contexts(torch.arange(len(lists)), ends - counts, ends, torch.cat(list(lists)).long())


DATA = rows()


@pytest.fixture(scope="module")
def fitted() -> dict[str, Baseline]:
    models = {name: make() for name, make in BASELINES.items()}
    for model in models.values():
        model.fit(DATA)
    return models


@pytest.mark.parametrize("name", BASELINES)
@settings(max_examples=8, deadline=None)
@given(chosen=st.lists(st.integers(0, USERS - 1), min_size=1, max_size=150), seed=st.integers(0, 99))
def test_a_score_is_the_same_in_any_batch(fitted: dict[str, Baseline], name: str, chosen: list[int], seed: int) -> None:
    candidates = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(seed))[:40]
    catalogue = fitted[name].catalogue(contexts(DATA), candidates)
    everyone = catalogue.cross(torch.arange(USERS))
    assert everyone.shape == (USERS, 40)
    assert everyone.dtype == torch.float32
    assert everyone.isfinite().all()
    places = torch.tensor(chosen)
    assert torch.equal(catalogue.cross(places), everyone[places])
    columns = torch.randint(40, (len(places),), generator=torch.Generator().manual_seed(seed))
    pairs = catalogue.pairs(places, columns)
    assert torch.allclose(pairs, everyone[places, columns], rtol=1e-5, atol=1e-6)
    one = int(seed % len(chosen))
    assert torch.equal(catalogue.pairs(places[one : one + 1], columns[one : one + 1]), pairs[one : one + 1])


@pytest.mark.parametrize("name", BASELINES)
def test_a_checkpoint_holds_all_that_was_fitted(fitted: dict[str, Baseline], name: str, tmp_path: Path) -> None:
    save_checkpoint(fitted[name], tmp_path)
    model = BASELINES[name]()
    model.fit(DATA)
    for buffer in model.buffers():
        buffer.zero_()
    load_checkpoint(model, tmp_path)
    asked, items, places = contexts(DATA), torch.arange(ITEMS), torch.arange(USERS)
    before, after = (one.catalogue(asked, items).cross(places) for one in (fitted[name], model))
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", BASELINES)
def test_fitting_again_changes_nothing(fitted: dict[str, Baseline], name: str) -> None:
    model = BASELINES[name]()
    model.fit(DATA)
    assert [*model.state_dict()] == [*fitted[name].state_dict()]
    for key, value in model.state_dict().items():
        assert torch.equal(value, fitted[name].state_dict()[key]), key


@pytest.mark.parametrize("name", BY_HISTORY)
def test_histories_come_from_the_contexts(fitted: dict[str, Baseline], name: str) -> None:
    """An empty one scores 0; a longer one scores otherwise; users that training never saw may ask."""
    taste = torch.arange(0, 40, 2)
    asked = replace(
        histories([taste[:0], taste[:3], taste]), users=torch.tensor([0, 1, USERS + 5 if name != "user_knn" else 2])
    )
    scores = fitted[name].catalogue(asked, torch.arange(ITEMS)).cross(torch.arange(3))
    assert not scores[0].any()
    assert not torch.equal(scores[1], scores[2])
    if name != "text_knn":  # which knows no training but texts
        assert scores[2, 40:80:2].mean() > scores[2, 41:80:2].mean()
        assert not scores[:, ITEMS - COLD :].any()


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "bias"])  # which is the mean of labels
def test_negatives_are_no_interactions(name: str) -> None:
    more = torch.arange(USERS)
    mixed = replace(
        DATA,
        users=torch.cat([DATA.users, more]),
        items=torch.cat([DATA.items, more % ITEMS]),
        labels=torch.cat([DATA.labels, torch.zeros(USERS, dtype=torch.bool)]),
        timestamps=torch.cat([DATA.timestamps, torch.full((USERS,), 10**9)]),
    )
    models = [BASELINES[name](), BASELINES[name]()]
    for model, data in zip(models, (DATA, mixed), strict=True):
        model.fit(data)
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=5), st.sampled_from([1.0, 0.9, 0.5, 0.01])
)
def test_recency_weighs_by_place_from_the_end(lists: list[list[int]], recency: float) -> None:
    asked = histories([torch.tensor(items, dtype=torch.int64) for items in lists])
    expected = np.zeros((len(lists), 10))
    for row, items in enumerate(lists):
        for place, item in enumerate(items):
            expected[row, item] = recency ** (len(items) - 1 - place)  # a later place writes over an earlier
    found = history_rows(asked, 10, recency)
    assert np.allclose(found.numpy(), expected, rtol=1e-6, atol=0)


def test_popularity_decays_by_its_half_life() -> None:
    days = torch.tensor([0, 4, 6, 6])
    data = replace(
        DATA, users=torch.arange(4), items=torch.tensor([1, 2, 2, 3]), labels=torch.ones(4, dtype=torch.bool)
    )
    data = replace(data, timestamps=days * DAY)
    model = Popularity(half_life=2.0)
    model.fit(data)
    assert model.item_weight[:5].tolist() == [0.0, 0.125, 1.5, 1.0, 0.0]
    model = Popularity(half_life=None)
    model.fit(data)
    assert model.item_weight[:5].tolist() == [0.0, 1.0, 2.0, 1.0, 0.0]


def test_random_scores_are_uniform_and_a_matter_of_seed_user_and_item() -> None:
    def scores(seed: int) -> torch.Tensor:
        model = Random()
        model.fit(replace(DATA, seed=seed))
        asked = histories([torch.zeros(0, dtype=torch.int64)] * 500)
        return model.catalogue(asked, torch.arange(400)).cross(torch.arange(500))

    first, second = scores(1), scores(2)
    assert torch.equal(first, scores(1))
    for found in (first, second):
        assert found.min() >= 0
        assert found.max() < 1
        counts = torch.histc(found, 20, 0, 1)
        assert ((counts - 10_000).abs() < 5 * 10_000**0.5).all()
        assert len(found.unique()) > 0.98 * found.numel()
    flat = torch.stack([first.flatten(), second.flatten(), first.T.flatten(), first.roll(1, 0).flatten()])
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < 0.015


def test_bias_of_labelled_rows_is_a_smoothed_logit() -> None:
    users, items = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1])
    labels = torch.tensor([True, True, False, False])
    data = replace(DATA, users=users, items=items, labels=labels, num_users=3, num_items=3)
    model = Bias(prior=2.0, latest=None)
    model.fit(data)
    scores = model.catalogue(histories([items[:0]] * 3), torch.arange(3)).cross(torch.arange(3))

    def logit(positives: float, count: int) -> float:
        rate = (positives + 2 * 0.5) / (count + 2)
        return float(np.log(rate / (1 - rate)))

    assert np.allclose(
        scores[0].tolist(), [logit(2, 3) + logit(1, 1), logit(2, 3) + logit(1, 3), logit(2, 3)], atol=1e-6
    )
    assert scores[2, 2] == 0


def test_bias_of_the_latest_rows_reads_them_where_it_is_asked() -> None:
    labels = torch.tensor([True, False, True, False])
    data = replace(DATA, users=torch.zeros(4).long(), items=torch.arange(4), labels=labels, num_users=3, num_items=4)
    model = Bias(prior=2.0, latest=2)
    model.fit(data)
    had = torch.tensor([True, False, True, True])  # of one user, then two of another, who is new to the model
    rated = Rated(torch.tensor([0, 1, 4]), torch.tensor([1, 4, 4]), torch.arange(4), had)
    contexts = replace(histories([torch.arange(0)] * 3), rated=rated)
    scores = model.catalogue(contexts, torch.tensor([0])).cross(torch.arange(3))[:, 0] - model.item_rate[0]
    share = torch.tensor([(1 + 1) / (1 + 2), (2 + 1) / (2 + 2), 0.5])  # the two latest; none: the overall share
    assert torch.allclose(scores, share.logit(), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 8))
def test_keep_largest_keeps_the_first_of_equals(values: list[list[int]], k: int) -> None:
    found = keep_largest(torch.tensor(values).float(), k)
    for row, kept in zip(values, found.tolist(), strict=True):
        best = sorted(range(6), key=lambda place: -row[place])[:k]
        assert kept == [float(value) if place in best else 0.0 for place, value in enumerate(row)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=4), st.sampled_from([1.0, 0.9, 0.5]))
def test_transitions_are_those_of_every_history_and_its_next_item(lists: list[list[int]], recency: float) -> None:
    """Also where items are had again."""
    together, following = np.zeros((5, 5)), np.zeros((5, 5))
    for items in lists:
        for t in range(1, len(items)):
            history = np.zeros(5)
            for place in range(t):
                history[items[place]] = recency ** (t - 1 - place)
            together += np.outer(history, history)
            following[:, items[t]] += history
    offsets = np.cumsum([0, *map(len, lists)])
    found = transition_sums(offsets, np.array([item for items in lists for item in items], np.int64), recency, 5)
    assert np.allclose(found[0], together, atol=1e-5)
    assert np.allclose(found[1], following, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ItemKNN(k=0, shrinkage=0.0, recency=1.0), "baseline.k=0"),
        (lambda: UserKNN(k=5, shrinkage=-1.0, recency=1.0), "baseline.shrinkage=-1"),
        (lambda: EASE(l2=0.0, dropout=0.0, recency=1.0), "baseline.l2=0"),
        (lambda: EASE(l2=1.0, dropout=1.0, recency=1.0), "baseline.dropout=1"),
        (lambda: EASE(l2=1.0, dropout=0.0, recency=0.0), "baseline.recency=0"),
        (lambda: SLIST(alpha=1.5, l2=1.0, recency=1.0), "baseline.alpha=1.5"),
        (lambda: SLIST(alpha=0.5, l2=-1.0, recency=1.0), "baseline.l2=-1"),
        (lambda: SLIM(l1=-1.0, l2=1.0, tolerance=1e-4, recency=1.0), "baseline.l1=-1"),
        (lambda: SLIM(l1=1.0, l2=1.0, tolerance=0.0, recency=1.0), "baseline.tolerance=0"),
        (lambda: IALS(num_factors=0, l2=1.0, alpha=1.0, iterations=1), "baseline.num_factors=0"),
        (lambda: IALS(num_factors=8, l2=0.0, alpha=1.0, iterations=1), "baseline.l2=0"),
        (lambda: Popularity(half_life=0.0), "baseline.half_life=0"),
        (lambda: Bias(prior=0.0, latest=None), "baseline.prior=0"),
        (lambda: Bias(prior=1.0, latest=0), "baseline.latest=0"),
        (lambda: Bias(prior=1.0, latest=5).fit(DATA), "baseline.latest=5 is for labelled rows"),
        (lambda: TextKNN(k=5, recency=2.0), "baseline.recency=2"),
        (lambda: TextKNN(k=5, recency=1.0).fit(replace(DATA, item_vectors=None)), "backbone=minilm"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
