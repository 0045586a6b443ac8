"""What every head promises: one score for each row, and the factorized form equal to the sum over pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.heads.base import Terms
from factorlm.heads.fm import FM
from factorlm.models.recommender import Recommender

HEADS = [FM]


def terms(rows: int, fields: int, factors: int, seed: int) -> Terms:
    generator = torch.Generator().manual_seed(seed)
    linear = torch.randn(rows, fields, generator=generator, dtype=torch.float64)
    return Terms(linear, torch.randn(rows, fields, factors, generator=generator, dtype=torch.float64))


def pair_sum(linear: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The equation as it stands: O(F^2)."""
    total = bias + linear.sum(1)
    for f in range(factors.shape[1]):
        for g in range(f + 1, factors.shape[1]):
            total = total + (factors[:, f] * factors[:, g]).sum(1)
    return total


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))
def test_fm_equals_the_pair_sum(user_fields: int, item_fields: int, factors: int, seed: int) -> None:
    head = FM().double()
    with torch.no_grad():
        head.bias.fill_(0.7)
    user, item = terms(5, user_fields, factors, seed), terms(5, item_fields, factors, seed + 1)
    expected = pair_sum(*user.join(item), head.bias)
    assert torch.allclose(head(*user.join(item)), expected)
    sides = head.user_side(user), head.item_side(item)
    factorized = sides[0].bias + sides[1].bias + (sides[0].vectors * sides[1].vectors).sum(1)
    assert torch.allclose(factorized, expected)


@pytest.mark.parametrize("head", HEADS)
def test_every_head(head: type[FM]) -> None:
    model = Recommender({}, {}, head().double(), factor_l2=0.1)
    user, item = terms(4, 2, 3, 0), terms(6, 3, 3, 1)
    cross = model.cross_scores(user, item)
    assert cross.shape == (4, 6)
    for u in range(4):
        for i in range(6):
            one = Terms(*(part[u : u + 1] for part in user)), Terms(*(part[i : i + 1] for part in item))
            assert torch.allclose(model.pair_scores(*one), cross[u, i])
    factors = user.factors.requires_grad_()
    model.pair_scores(user, Terms(*(part[:4] for part in item))).sum().backward()
    assert factors.grad is not None
    assert factors.grad.abs().sum() > 0
