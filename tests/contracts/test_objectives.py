"""What every objective promises: finite at extremes, blind to left-out candidates, smaller for better scores."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from factorlm.objectives.bce import BCE
from factorlm.objectives.bpr import BPR
from factorlm.objectives.full_softmax import FullSoftmax
from factorlm.objectives.logsumexp import logsumexp
from factorlm.objectives.sampled_softmax import SampledSoftmax

OBJECTIVES = [FullSoftmax(), SampledSoftmax(3), BPR(3), BCE(3)]
SAMPLED = OBJECTIVES[1:]


def candidates(objective: nn.Module, positive: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The full softmax has the positive among its candidates."""
    return torch.cat([positive.unsqueeze(1), others], 1) if isinstance(objective, FullSoftmax) else others


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_every_objective(objective: nn.Module) -> None:
    others = torch.tensor([[0.0, 1.0, -1.0], [2.0, -2.0, 0.5]])
    losses = []
    for level in (-1e4, -1.0, 0.0, 3.0, 1e4):
        positive = torch.full((2,), level, requires_grad=True)
        loss = objective(positive, candidates(objective, positive, others))
        loss.backward()
        assert loss.isfinite()
        assert positive.grad is not None
        assert positive.grad.isfinite().all()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("objective", SAMPLED, ids=lambda o: type(o).__name__)
def test_a_candidate_at_minus_infinity_is_left_out(objective: nn.Module) -> None:
    positive = torch.tensor([0.3, -0.2])
    others = torch.tensor([[0.0, 1.0], [2.0, -2.0]])
    masked = torch.cat([others, torch.full((2, 1), -torch.inf)], 1)
    assert torch.allclose(objective(positive, masked), objective(positive, others))


def test_values_by_hand() -> None:
    positive, others = torch.tensor([1.0]), torch.tensor([[0.0]])
    assert BPR(1)(positive, others).item() == pytest.approx(-torch.tensor(1.0).sigmoid().log().item())
    expected = -torch.tensor(1.0).sigmoid().log() - (1 - torch.tensor(0.0).sigmoid()).log()
    assert BCE(1)(positive, others).item() == pytest.approx(expected.item())
    softmax = torch.tensor([1.0, 0.0]).softmax(0)[0].log().neg().item()
    assert SampledSoftmax(1)(positive, others).item() == pytest.approx(softmax)


def test_logsumexp_and_its_gradient() -> None:
    scores = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(logsumexp(scores), scores.logsumexp(1))
    assert torch.autograd.gradcheck(logsumexp, (scores,))
