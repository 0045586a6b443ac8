from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.special import expit
from scipy.stats import norm, truncnorm

from factorlm.baselines.base import TrainingData
from factorlm.baselines.bayesian_fm import BayesianFM, SampleCatalogue, mean_logits
from factorlm.baselines.gibbs import (
    FIRST_PRECISION,
    RATE,
    SHAPE,
    WEIGHT,
    Columns,
    GibbsSampler,
    Half,
    draw_hyperparameters,
    draw_latent,
    gather,
    settle,
    sweep,
)
from factorlm.data.fields import CodedField, EncodedField, FieldSpec, MultiHotField, NumericField, TextField
from factorlm.errors import UserError
from factorlm.scoring import Contexts
from factorlm.training.checkpoint import load_checkpoint, save_checkpoint

NUM_USERS, NUM_ITEMS = 40, 30


def training_data(seed: int = 0, num_rows: int = 400, labels: torch.Tensor | None = None) -> TrainingData:
    """Random rows; the last user and the last item have none and share code 0."""
    rng = np.random.default_rng(7)
    users, items = rng.integers(NUM_USERS - 1, size=num_rows), rng.integers(NUM_ITEMS - 1, size=num_rows)
    shares = rng.random((NUM_ITEMS, 3)).astype(np.float32)
    fields: dict[str, tuple[FieldSpec, EncodedField]] = {
        "user": (FieldSpec("id", "user", "u"), CodedField(np.r_[1:NUM_USERS, 0], NUM_USERS)),
        "age": (FieldSpec("numeric", "user", "a"), NumericField(rng.standard_normal(NUM_USERS).astype(np.float32))),
        "item": (FieldSpec("id", "item", "i"), CodedField(np.r_[1:NUM_ITEMS, 0], NUM_ITEMS)),
        "genres": (
            FieldSpec("multi_hot", "item", "g"),
            MultiHotField(rng.integers(1, 6, (NUM_ITEMS, 3)), shares / shares.sum(1, keepdims=True), 6),
        ),
    }
    return TrainingData(
        torch.from_numpy(users),
        torch.from_numpy(items),
        torch.from_numpy(rng.random(num_rows) < 0.4) if labels is None else labels,
        torch.zeros(num_rows, dtype=torch.int64),
        NUM_USERS,
        NUM_ITEMS,
        seed,
        None,
        {name: spec for name, (spec, _) in fields.items()},
        {name: field for name, (_, field) in fields.items()},
    )


def fitted(seed: int = 0, implicit: str = "both") -> BayesianFM:
    model = BayesianFM(
        num_factors=3, iterations=12, burn_in=2, samples=5, implicit=implicit, text_components=2, prompt_components=1
    )  # type: ignore[arg-type]
    model.fit(training_data(seed))
    return model


def all_pairs(model: BayesianFM) -> SampleCatalogue:
    users = torch.arange(NUM_USERS)
    nothing = torch.zeros(NUM_USERS, dtype=torch.int64)
    return model.catalogue(Contexts(users, nothing, nothing, nothing[:0]), torch.arange(NUM_ITEMS))


@pytest.mark.parametrize("score", [-6.0, -0.5, 0.0, 2.0])
@pytest.mark.parametrize("positive", [True, False])
def test_latents_have_the_moments_of_truncated_normals(score: float, positive: bool) -> None:
    size = 100_000
    drawn = draw_latent(np.full(size, positive), np.full(size, score), np.random.default_rng(0))
    low, high = (-score, np.inf) if positive else (-np.inf, -score)
    expected = truncnorm(low, high, loc=score)
    assert ((drawn > 0) == positive).all()
    assert drawn.mean() == pytest.approx(expected.mean(), abs=5 * expected.std() / size**0.5)
    assert drawn.std() == pytest.approx(expected.std(), rel=0.03)


def test_latents_of_hopeless_scores_are_finite() -> None:
    drawn = draw_latent(np.array([True, False]), np.array([-60.0, 60.0]), np.random.default_rng(0))
    assert np.isfinite(drawn).all()


def test_hyperparameters_have_the_moments_of_their_posterior() -> None:
    rng = np.random.default_rng(0)
    groups, values = np.array([0, 0, 0, 1, 1]), np.array([1.0, 2.0, 4.0, -1.0, 1.0])
    draws = np.array([draw_hyperparameters(values, groups, rng) for _ in range(20_000)])
    for group in (0, 1):
        own = values[groups == group]
        size = len(own) + WEIGHT
        mean = own.sum() / size
        rate = RATE + (own**2).sum() - size * mean**2
        means, precisions = draws[:, 0, groups == group], draws[:, 1, groups == group]
        assert (means[:, 0] == means[:, 1]).all()
        assert precisions[:, 0].mean() == pytest.approx((SHAPE + len(own)) / rate, rel=0.03)
        standardized = (means[:, 0] - mean) * np.sqrt(precisions[:, 0] * size)
        assert abs(standardized.mean()) < 0.03
        assert standardized.std() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("paired", [True, False])
def test_a_sweep_draws_from_the_conditionals_of_the_rows(paired: bool) -> None:
    rng = np.random.default_rng(1)
    num_rows, size, width = 50, 6, 4
    own, other = (rng.integers(size, size=num_rows).astype(np.uint32) for _ in range(2))
    inputs = rng.random((size, width)) * (rng.random((size, width)) < 0.6)
    values, g = rng.standard_normal(width), rng.standard_normal(size)
    mean, precision, noise = rng.standard_normal(width), rng.random(width) + 0.5, rng.standard_normal(width)
    latent = rng.standard_normal(num_rows)

    def scores(values: np.ndarray) -> np.ndarray:
        """One factor's part of the scores of all rows, by the sum over pairs."""
        x = inputs[own]
        total = (x @ values) * g[other]
        if paired:
            for j in range(width):
                for k in range(j):
                    total = total + values[j] * values[k] * x[:, j] * x[:, k]
        return total

    expected = values.copy()
    for j in range(width):
        without, unit = expected.copy(), expected.copy()
        without[j], unit[j] = 0.0, 1.0
        h = scores(unit) - scores(without)
        a = precision[j] + h @ h
        expected[j] = (precision[j] * mean[j] + h @ (latent - scores(without))) / a + noise[j] / np.sqrt(a)

    design, sums, moments = sp.csc_array(inputs), inputs @ values, np.zeros((size, 8))
    residual = latent - scores(values)
    moments[:, 0], moments[:, 1] = sums, np.bincount(own, minlength=size)
    gather(own, other, g, residual, moments)
    columns = design.indptr.astype(np.uint32), design.indices.astype(np.uint32), design.data
    sweep(*columns, paired, mean, precision, noise, values, moments)
    settle(own, other, g, sums, moments, residual)
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    np.testing.assert_allclose(sums, inputs @ expected, rtol=1e-10)
    np.testing.assert_allclose(residual, latent - scores(expected), atol=1e-10)


def test_pairs_are_means_over_samples_of_the_explicit_sum() -> None:
    rng = np.random.default_rng(2)
    num_rows, num_factors = 200, 3
    rows = [rng.integers(size, size=num_rows) for size in (8, 9)]
    designs = [rng.random((size, 5)) * (rng.random((size, 5)) < 0.6) for size in (8, 9)]
    groups = np.array([0, 0, 0, 1, 1])
    users, items = (Half(r, sp.csc_array(x), groups, num_factors) for r, x in zip(rows, designs, strict=True))
    inputs = rng.standard_normal((num_rows, 2))
    columns = Columns(inputs, np.array([0, 1]))
    sampler = GibbsSampler(rng.random(num_rows) < 0.5, users, items, columns, rng)
    asked = rng.standard_normal((72, 2))
    shares, vectors = [], []
    for _ in range(4):
        sampler.step()
        values = np.hstack([users.values, items.values])
        u, i = np.divmod(np.arange(72), 9)
        x = np.hstack([designs[0][u], designs[1][i]])
        score = sampler._bias + x @ values[0]
        for j in range(10):
            for k in range(j):
                score += values[1:, j] @ values[1:, k] * x[:, j] * x[:, k]
        shares.append(norm.cdf(score + asked @ columns.weights))
        vectors.append(sampler.sample())
    tables = [np.stack(side, -1).astype(np.float32) for side in zip(*vectors, strict=True)]
    row_terms = asked.astype(np.float32) @ tables[2]
    found = mean_logits(*(table.transpose(1, 0, 2) for table in tables[:2]), row_terms, u, i)
    np.testing.assert_allclose(expit(found.astype(np.float64)), np.mean(shares, 0), atol=1e-5)


def test_columns_are_drawn_from_their_conditionals() -> None:
    rng = np.random.default_rng(5)
    inputs, latent = rng.standard_normal((40, 3)), rng.standard_normal(40)
    groups = np.array([0, 1, 1])
    columns, residual = Columns(inputs, groups), latent.copy()
    columns.weights[:] = 0.5
    residual -= inputs @ columns.weights
    noise = np.random.default_rng(0).standard_normal(3)
    expected = columns.weights.copy()
    for j in range(3):
        rest = latent - np.delete(inputs, j, 1) @ np.delete(expected, j)
        precision = FIRST_PRECISION + inputs[:, j] @ inputs[:, j]
        expected[j] = inputs[:, j] @ rest / precision + noise[j] / precision**0.5
    columns.draw(residual, np.random.default_rng(0))
    np.testing.assert_allclose(columns.weights, expected, rtol=1e-10)
    np.testing.assert_allclose(residual, latent - inputs @ expected, atol=1e-10)


def test_what_a_few_rows_are_asked_is_weighed_beside_what_all_rows_say() -> None:
    """Columns that are 0 but for every fourth row get the weight that a probit regression on all would give."""
    rng = np.random.default_rng(6)
    num_rows = 8_000
    users, items = rng.integers(20, size=num_rows), rng.integers(20, size=num_rows)
    effects, answers = rng.standard_normal(20), rng.standard_normal(num_rows)
    labels = effects[users] + 0.7 * answers + rng.standard_normal(num_rows) > 0
    inputs = np.where(np.arange(num_rows) % 4 == 0, answers, 0.0)[:, None]
    halves = [Half(rows, sp.csc_array(np.eye(20)), np.zeros(20, np.int64), 1) for rows in (users, items)]
    sampler = GibbsSampler(labels, *halves, Columns(inputs, np.zeros(1, np.int64)), rng)
    drawn = []
    for _ in range(150):
        sampler.step()
        drawn.append(sampler.sample()[2][0])
    assert np.mean(drawn[50:]) == pytest.approx(0.7, abs=0.1)


def test_a_planted_machine_is_recovered() -> None:
    rng = np.random.default_rng(3)
    size, num_rows = 50, 20_000
    bias, vectors = rng.standard_normal((2, size)) * 0.5, rng.standard_normal((2, size, 2)) * 0.8
    users, items = rng.integers(size, size=(2, num_rows))
    score = 0.3 + bias[0][:, None] + bias[1] + vectors[0] @ vectors[1].T
    labels = score[users, items] + rng.standard_normal(num_rows) > 0
    model = BayesianFM(
        num_factors=4, iterations=100, burn_in=40, samples=30, implicit="none", text_components=1, prompt_components=1
    )
    codes = CodedField(np.arange(1, size + 1), size + 1)
    specs = {"user": FieldSpec("id", "user", "u"), "item": FieldSpec("id", "item", "i")}
    model.fit(
        TrainingData(
            *map(torch.from_numpy, (users, items, labels, users)), size, size, 0, None,
            specs, {"user": codes, "item": codes},
        )
    )  # fmt: skip
    nothing = torch.zeros(size, dtype=torch.int64)
    contexts = Contexts(torch.arange(size), nothing, nothing, nothing[:0])
    probability = torch.sigmoid(model.catalogue(contexts, torch.arange(size)).cross(torch.arange(size))).numpy()
    error = np.sqrt(np.mean((probability - norm.cdf(score)) ** 2))
    assert error < 0.08  # the share of each of 2,500 cells, with 8 rows each
    assert probability[score > 1].mean() == pytest.approx(norm.cdf(score[score > 1]).mean(), abs=0.02)


def test_items_without_rows_get_what_their_text_predicts() -> None:
    rng = np.random.default_rng(4)
    size, num_rows, cold = 200, 10_000, np.arange(150, 200)
    texts = rng.standard_normal((size, 3))
    effect = texts @ [0.8, -0.6, 0.0] + 0.2 * rng.standard_normal(size)
    users, items = rng.integers(size, size=num_rows), rng.integers(150, size=num_rows)
    labels = effect[items] + rng.standard_normal(num_rows) > 0
    codes = {"user": CodedField(np.arange(1, size + 1), size + 1)}
    codes["item"] = CodedField(np.where(np.arange(size) < 150, np.arange(1, size + 1), 0), 151)
    specs = {"user": FieldSpec("id", "user", "u"), "item": FieldSpec("id", "item", "i")}
    rows = map(torch.from_numpy, (users, items, labels, users))
    vectors = torch.from_numpy(texts @ rng.standard_normal((3, 12))).float()
    model = BayesianFM(
        num_factors=2, iterations=60, burn_in=20, samples=20, implicit="none", text_components=8, prompt_components=1
    )
    model.fit(TrainingData(*rows, size, size, 0, vectors, specs, codes))
    nothing = torch.zeros(1, dtype=torch.int64)
    scores = model.catalogue(Contexts(nothing, nothing, nothing, nothing[:0]), torch.arange(size)).cross(nothing)[0]
    assert np.corrcoef(scores.numpy()[cold], effect[cold])[0, 1] > 0.9


def test_a_score_is_the_same_in_any_batch() -> None:
    catalogue = all_pairs(fitted())
    cross = catalogue.cross(torch.arange(NUM_USERS))
    users, items = torch.arange(NUM_USERS).repeat_interleave(NUM_ITEMS), torch.arange(NUM_ITEMS).repeat(NUM_USERS)
    assert torch.equal(catalogue.pairs(users, items), cross.flatten())
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))[:100]
    assert torch.equal(catalogue.pairs(users[order], items[order]), cross.flatten()[order])
    assert torch.equal(catalogue.pairs(users[5:6], items[5:6]), cross.flatten()[5:6])
    assert torch.equal(catalogue.cross(torch.tensor([3, 1])), cross[[3, 1]])


def test_a_seed_determines_the_samples() -> None:
    first, again, other = fitted(1), fitted(1), fitted(2)
    assert torch.equal(first.user_samples, again.user_samples)
    assert torch.equal(first.item_samples, again.item_samples)
    assert not torch.equal(first.item_samples, other.item_samples)


def test_a_checkpoint_keeps_the_samples(tmp_path: Path) -> None:
    first, other = fitted(1), fitted(2)
    save_checkpoint(first, tmp_path)
    load_checkpoint(other, tmp_path)
    places = torch.arange(NUM_USERS)
    assert torch.equal(all_pairs(other).cross(places), all_pairs(first).cross(places))


def test_an_unseen_category_is_drawn_from_its_prior() -> None:
    assert (fitted(implicit="none").user_samples[-1, 1:].std(-1) > 0).all()


def test_implicit_fields_weigh_those_met_by_the_root_of_their_number() -> None:
    model = BayesianFM(
        num_factors=1, iterations=1, burn_in=0, samples=1, implicit="item", text_components=1, prompt_components=1
    )
    data = training_data()
    design = model._half(data, "item")._design
    block = sp.csc_array((design[2], design[1], design[0]), shape=(NUM_ITEMS, len(design[0]) - 1))[:, -NUM_USERS:]
    met = np.zeros((NUM_ITEMS, NUM_USERS))
    met[data.items, data.users] = 1.0
    np.testing.assert_allclose(block.toarray(), met / np.sqrt(np.maximum(met.sum(1, keepdims=True), 1.0)))
    assert model._half(data, "user").values.shape[1] == NUM_USERS + 1


def test_positives_alone_are_refused() -> None:
    model = BayesianFM(
        num_factors=1, iterations=1, burn_in=0, samples=1, implicit="none", text_components=1, prompt_components=1
    )
    with pytest.raises(UserError, match="all 3 training rows are positive: set task=pointwise"):
        model.fit(training_data(num_rows=3, labels=torch.ones(3, dtype=torch.bool)))


def test_text_is_refused() -> None:
    data = training_data()
    text = TextField(["a"], np.zeros(NUM_ITEMS, np.int64), np.ones(1, np.bool_))
    data.specs["title"], data.fields["title"] = FieldSpec("text", "item", "title"), text  # type: ignore[index]
    with pytest.raises(UserError, match=r"fields.title: .* reads no text"):
        BayesianFM(
            num_factors=1, iterations=1, burn_in=0, samples=1, implicit="none", text_components=1, prompt_components=1
        ).fit(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_factors": 0}, "baseline.num_factors=0"),
        ({"samples": 0}, "baseline.samples=0"),
        ({"burn_in": 6}, "baseline.burn_in=6: 10 iterations and 5 samples allow 0 to 5"),
        ({"implicit": "all"}, "baseline.implicit=all"),
        ({"text_components": 0}, "baseline.text_components=0"),
        ({"prompt_components": 0}, "baseline.prompt_components=0"),
    ],
)
def test_what_makes_no_chain_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"num_factors": 2, "iterations": 10, "burn_in": 5, "samples": 5, "implicit": "both"}
    arguments |= {"text_components": 4, "prompt_components": 4, **change}
    with pytest.raises(UserError, match=message):
        BayesianFM(**arguments)  # type: ignore[arg-type]


def test_samples_end_with_the_last_iteration_at_even_distance() -> None:
    assert sorted(BayesianFM(1, 10, 2, 4, "none", 1, 1)._kept) == [3, 5, 7, 9]
