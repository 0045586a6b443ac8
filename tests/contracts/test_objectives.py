"""What every objective promises: finite at extremes, blind to left-out candidates, smaller for better scores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from factorlm.errors import UserError
from factorlm.objectives.bce import BCE
from factorlm.objectives.bpr import BPR
from factorlm.objectives.full_softmax import FullSoftmax
from factorlm.objectives.gbce import GBCE
from factorlm.objectives.sampled_softmax import SampledSoftmax

SAMPLED = [SampledSoftmax("uniform", 3, True), SampledSoftmax("in_batch", 0, False), BPR(3), BCE(3), GBCE(3, 0.75)]
RATE = torch.tensor([0.3, 0.3, 0.3]).log()


@pytest.mark.parametrize("objective", SAMPLED, ids=lambda o: type(o).__name__)
def test_every_objective(objective: nn.Module) -> None:
    others = torch.tensor([[0.0, 1.0, -1.0], [2.0, -2.0, 0.5]])
    losses = []
    for level in (-1e4, -1.0, 0.0, 3.0, 1e4):
        positive = torch.full((2,), level, requires_grad=True)
        loss = objective(positive, others, RATE)
        loss.backward()
        assert loss.isfinite()
        assert positive.grad is not None
        assert positive.grad.isfinite().all()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("objective", SAMPLED[:-1], ids=lambda o: type(o).__name__)
def test_a_candidate_at_minus_infinity_is_left_out(objective: nn.Module) -> None:
    positive = torch.tensor([0.3, -0.2])
    others = torch.tensor([[0.0, 1.0], [2.0, -2.0]])
    masked = torch.cat([others, torch.full((2, 1), -torch.inf)], 1)
    assert torch.allclose(objective(positive, masked, RATE), objective(positive, others, RATE[:2]))


def test_values_by_hand() -> None:
    positive, others, rate = torch.tensor([1.0]), torch.tensor([[0.0]]), torch.tensor([0.25]).log()
    assert BPR(1)(positive, others, rate).item() == pytest.approx(math.log1p(math.exp(-1)))
    plain = math.log1p(math.exp(-1)) + math.log(2)
    assert BCE(1)(positive, others, rate).item() == pytest.approx(plain)
    assert SampledSoftmax("uniform", 1, False)(positive, others, rate).item() == pytest.approx(math.log1p(math.exp(-1)))
    corrected = math.log(math.e + 4) - 1  # one draw in four stands for four items
    assert SampledSoftmax("uniform", 1, True)(positive, others, rate).item() == pytest.approx(corrected)
    assert GBCE(1, 0.0)(positive, others, rate).item() == pytest.approx(plain)
    assert GBCE(1, 1.0)(positive, others, rate).item() == pytest.approx(0.25 * math.log1p(math.exp(-1)) + math.log(2))


def test_sampled_softmax_estimates_the_full_one() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, target = torch.randn(1, 500, generator=generator), torch.tensor([3])
    full = nn.functional.cross_entropy(scores, target).item()
    share = torch.rand(500, generator=generator) + 0.1
    share /= share.sum()
    drawn = torch.multinomial(share, 200_000, True, generator=generator)
    candidates = scores[:, drawn].masked_fill(drawn == 3, -torch.inf)
    estimate = SampledSoftmax("popularity", 200_000, True)(scores[:, 3], candidates, (200_000 * share[drawn]).log())
    assert estimate.item() == pytest.approx(full, abs=0.03)


@pytest.mark.parametrize("rows", [1, 128, 300])
def test_full_softmax_is_cross_entropy(rows: int) -> None:
    users, items = torch.randn(rows, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    targets = torch.randint(7, (rows,))
    users.requires_grad_()
    items.requires_grad_()
    loss = 3 * FullSoftmax()(users, items, targets)
    gradients = torch.autograd.grad(loss, (users, items))
    expected = 3 * nn.functional.cross_entropy(users @ items.T, targets)
    assert loss.item() == pytest.approx(expected.item())
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, (users, items)), strict=True):
        assert torch.allclose(ours, theirs)


def test_full_softmax_is_finite_at_extremes() -> None:
    users = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = FullSoftmax()(users, torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert users.grad is not None
    assert users.grad.isfinite().all()


def test_mistakes() -> None:
    with pytest.raises(UserError, match="objective.negatives=all: it must be one of uniform, popularity, in_batch"):
        SampledSoftmax("all", 3, True)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="objective.num_negatives=0: it must be 1 or more"):
        BPR(0)
    with pytest.raises(UserError, match="objective.t=2: it must lie between 0 and 1"):
        GBCE(3, 2)
