"""The row-wise optimizers against torch's and against their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from factorlm.training.optimizers import RowAdagrad, RowAdam

ROWS, WIDTH = 12, 5
Make = Callable[..., torch.optim.Optimizer]


def parameter(seed: int = 0, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*(shape or (ROWS, WIDTH)), generator=torch.Generator().manual_seed(seed)))


def sparse(rows: list[int], values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (ROWS, WIDTH), check_invariants=True)


def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def gradients(number: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, WIDTH, generator=generator) for _ in range(number)]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(RowAdam, torch.optim.Adam), (RowAdagrad, torch.optim.Adagrad)], ids=["adam", "adagrad"]
)
def test_dense_gradients_move_a_parameter_as_the_plain_optimizer(ours: Make, theirs: Make) -> None:
    moved = []
    for make in (ours, theirs):
        weight = parameter()
        moved.append(steps(make([weight], lr=0.1), weight, gradients()))
    torch.testing.assert_close(*moved)


def test_adam_of_all_rows_is_adam() -> None:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    ours, theirs = parameter(), parameter()
    settings: dict[str, Any] = {"lr": 0.03, "betas": (0.8, 0.99), "eps": 1e-6}
    moved = steps(RowAdam([ours], **settings), ours, [sparse(order.tolist(), g[order]) for g in gradients()])
    torch.testing.assert_close(moved, steps(torch.optim.Adam([theirs], **settings), theirs, gradients()))


def test_adam_of_some_rows_is_sparse_adam() -> None:
    some = [[1, 4, 7], [4, 2], [7, 1, 11]]
    given = [sparse(rows, g[: len(rows)]) for rows, g in zip(some, gradients(), strict=False)]
    ours, theirs = parameter(), parameter()
    moved = steps(RowAdam([ours], lr=0.03), ours, given)
    torch.testing.assert_close(moved, steps(torch.optim.SparseAdam([theirs], lr=0.03), theirs, given))


def test_adagrad_has_an_accumulator_for_the_factors_and_one_for_the_linear_weight_of_a_row() -> None:
    weight = parameter()
    expected, total = weight.detach().clone(), torch.zeros(ROWS, 2)
    given = [([3, 8], gradients()[0][:2]), ([8, 1, 5], gradients()[1][:3])]
    moved = steps(RowAdagrad([weight], lr=0.1, eps=0.01), weight, [sparse(*one) for one in given])
    for rows, values in given:
        for row, value in zip(rows, values, strict=True):
            total[row] += torch.stack([value[:-1].square().mean(), value[-1].square()])
            root = total[row].sqrt() + 0.01
            expected[row, :-1] -= 0.1 * value[:-1] / root[0]
            expected[row, -1] -= 0.1 * value[-1] / root[1]
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("make", [RowAdam, RowAdagrad])
def test_rows_not_touched_stay_to_the_last_bit(make: Make) -> None:
    weight = parameter()
    before = weight.detach().clone()
    optimizer = make([weight], lr=0.1)
    after = steps(optimizer, weight, [sparse([2, 9], g[:2]) for g in gradients()]).clone()
    assert (after != before).any(1).nonzero()[:, 0].tolist() == [2, 9]
    steps(optimizer, weight, [sparse([9], gradients()[0][:1])])
    assert (weight != after).any(1).nonzero()[:, 0].tolist() == [9]


@pytest.mark.parametrize("make", [RowAdam, RowAdagrad])
def test_what_a_row_got_twice_is_summed_before_it_moves(make: Make) -> None:
    values = gradients()[0]
    twice = sparse([6, 1, 6, 0], values[:4])
    once = sparse([1, 6, 0], torch.stack([values[1], values[0] + values[2], values[3]]))
    moved = []
    for gradient in (twice, once):
        weight = parameter()
        moved.append(steps(make([weight], lr=0.1), weight, [gradient] * 3))
    torch.testing.assert_close(*moved)


@pytest.mark.parametrize("make", [RowAdam, RowAdagrad])
def test_a_restored_optimizer_goes_on_as_the_first(make: Make) -> None:
    results = []
    for restore in (False, True):
        table, bias = parameter(), parameter(3, 2)
        optimizer = make([table, bias], lr=0.1)
        for number, gradient in enumerate(gradients()):
            if restore and number == 2:
                state = optimizer.state_dict()
                optimizer = make([table, bias], lr=7.0)
                optimizer.load_state_dict(state)
            table.grad, bias.grad = sparse([5, 3], gradient[:2]), gradient[0, :2].clone()
            optimizer.step()
        results.append(torch.cat([table.detach().flatten(), bias.detach()]))
    assert torch.equal(*results)


@pytest.mark.parametrize("make", [RowAdam, RowAdagrad])
def test_a_closure_is_evaluated_with_gradients(make: Make) -> None:
    weight = parameter()
    optimizer = make([weight], lr=0.1)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return float(loss.detach())

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first  # type: ignore[operator]
