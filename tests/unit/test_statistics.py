from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test
from statsmodels.stats.multitest import multipletests

from factorlm.comparison.statistics import Effect, holm, paired_effects


def paired_effect(difference_SU: np.ndarray, resamples: int, seed: int = 0) -> Effect:
    return paired_effects(difference_SU[None], resamples, seed)[0]


def test_p_value_agrees_with_scipy() -> None:
    generator = np.random.default_rng(0)
    difference = generator.normal(0.2, 1.0, size=60)
    ours = paired_effect(difference[None], 20_000).p_value
    theirs = permutation_test(
        (difference, np.zeros(60)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=1
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.01)


def test_interval_covers_planted_effects() -> None:
    """Users differ, and each user a little from seed to seed: about 95 % of intervals hold the truth."""
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        users = generator.normal(0.05, 0.3, size=200)
        effect = paired_effect(users + generator.normal(0, 0.1, size=(5, 200)), 1000, seed=trial)
        covered += effect.low <= 0.05 <= effect.high
    assert 0.90 <= covered / 200 <= 0.99


def test_repeating_a_seed_does_not_narrow_the_interval() -> None:
    users = np.random.default_rng(2).normal(size=100)
    one, three = (paired_effect(np.tile(users, (seeds, 1)), 4000) for seeds in (1, 3))
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.1)


def test_an_arm_is_judged_alike_alone_and_in_company() -> None:
    arms = np.random.default_rng(4).normal(0.1, 1.0, size=(3, 2, 80))
    together = paired_effects(arms, 500)
    for arm, effect in zip(arms, together, strict=True):
        assert paired_effect(arm, 500).low == pytest.approx(effect.low)
        assert paired_effect(arm, 500).p_value == effect.p_value


def test_equal_arms() -> None:
    effect = paired_effect(np.zeros((3, 50)), 1000)
    assert (effect.difference, effect.low, effect.high, effect.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert (effect.better, effect.worse) == (0.0, 0.0)


def test_holm_agrees_with_statsmodels() -> None:
    p_values = np.random.default_rng(3).random(12).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())
    assert holm([]) == []
