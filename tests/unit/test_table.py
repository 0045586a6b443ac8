"""The compiled embedding table against plain autograd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from factorlm.data.fields import CodedField, MultiHotField, Side
from factorlm.models.table import Part, Table, sums_of

USERS, ITEMS, WIDTH = 30, 20, 5
Fields = dict[Side, dict[str, CodedField | MultiHotField]]
Read = Callable[[Table, tuple[Part, ...]], list[tuple[Tensor, ...]]]


def coded(rng: np.random.Generator, size: int, codes: int) -> CodedField:
    return CodedField(rng.integers(0, codes, size), codes)


def multi_hot(rng: np.random.Generator, size: int, codes: int, length: int = 4) -> MultiHotField:
    """Each has 0 to ``length`` known values, some of them twice."""
    known = np.arange(length) < rng.integers(0, length + 1, size)[:, None]
    values = np.where(known, rng.integers(1, codes, (size, length)), 0)
    shares = np.where(known, 1.0 / np.maximum(known.sum(1, keepdims=True), 1), 0.0)
    return MultiHotField(values, shares.astype(np.float32), codes)


def make_fields() -> Fields:
    rng = np.random.default_rng(0)
    return {
        "user": {"id": coded(rng, USERS, 12), "age": coded(rng, USERS, 4)},
        "item": {"tags": multi_hot(rng, ITEMS, 9), "id": coded(rng, ITEMS, 15), "words": multi_hot(rng, ITEMS, 6)},
    }


def make_table(*, sparse: bool, fields: Fields | None = None) -> Table:
    torch.manual_seed(0)
    table = Table(fields or make_fields(), WIDTH, 0.5, sparse=sparse)
    with torch.no_grad():
        table.weight[1:, -1].normal_()
    return table


def make_parts(size: int = 50) -> tuple[Part, ...]:
    generator = torch.Generator().manual_seed(1)
    users, items, pool = (torch.randint(high, (size,), generator=generator) for high in (USERS, ITEMS, ITEMS))
    return ("user", users), ("item", items), ("item", pool[: size // 2])


def gradient(table: Table) -> Tensor:
    assert table.weight.grad is not None
    return table.weight.grad


READS: dict[str, tuple[Read, Read]] = {
    "terms": (
        lambda table, parts: list(table.terms(*parts)),
        lambda table, parts: [table.plain(part) for part in parts],
    ),
    "sums": (
        lambda table, parts: list(table.sums(*parts, pairs=False)),
        lambda table, parts: [sums_of(table.plain(part), pairs=False) for part in parts],
    ),
    "sums with pairs": (
        lambda table, parts: list(table.sums(*parts, pairs=True)),
        lambda table, parts: [sums_of(table.plain(part), pairs=True) for part in parts],
    ),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("sparse", [True, False])
def test_values_and_gradients_are_those_of_plain_autograd(name: str, sparse: bool) -> None:
    results = []
    for read in READS[name]:
        table = make_table(sparse=sparse)
        flat = [tensor for part in read(table, make_parts()) for tensor in part]
        generator = torch.Generator().manual_seed(2)
        loss = sum((tensor * torch.randn(tensor.shape, generator=generator)).sum() for tensor in flat)
        loss.backward()
        assert gradient(table).is_sparse == sparse
        results.append([*flat, gradient(table).to_dense()])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


class Reader(torch.nn.Module):
    """A way to read as a module, so that a function of the weight can be made of it."""

    def __init__(self, read: Read, table: Table) -> None:
        super().__init__()
        self.read, self.table = read, table

    def forward(self, parts: tuple[Part, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor for part in self.read(self.table, parts) for tensor in part)


@pytest.mark.parametrize("name", ["sums", "sums with pairs"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    reader = Reader(READS[name][0], make_table(sparse=False).double())

    def flat(known: Tensor) -> tuple[Tensor, ...]:
        weight = torch.cat([torch.zeros(1, WIDTH + 1, dtype=known.dtype), known])
        result: tuple[Tensor, ...] = torch.func.functional_call(reader, {"table.weight": weight}, (make_parts(7),))
        return result

    assert torch.autograd.gradcheck(flat, reader.table.weight[1:].detach().requires_grad_())


@pytest.mark.parametrize("name", READS)
def test_a_sparse_gradient_has_each_touched_row_once(name: str) -> None:
    tables = make_table(sparse=True), make_table(sparse=False)
    for read, table in zip(READS[name], tables, strict=True):
        torch.cat([tensor.flatten() for part in read(table, make_parts(8)) for tensor in part]).sum().backward()
    ours, plain = map(gradient, tables)
    assert sorted(ours._indices()[0].tolist()) == plain.abs().sum(1).nonzero()[:, 0].tolist()


def test_gradients_of_several_calls_add_up() -> None:
    tables = make_table(sparse=True), make_table(sparse=False)
    for table in tables:
        user, item, pool = make_parts()
        (table.sums(user, item, pairs=True)[0].bias.sum() + table.terms(item, pool)[1].factors.sum()).backward()
        table.terms(user)[0].linear.sum().backward()
    torch.testing.assert_close(*(gradient(table).to_dense() for table in tables))


def test_a_value_unseen_in_training_contributes_nothing() -> None:
    fields: Fields = {
        "user": {"id": CodedField(np.array([0, 2]), 3)},
        "item": {"tags": MultiHotField(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.float32), 3)},
    }
    table = make_table(sparse=True, fields=fields)
    user, item = table.sums(("user", torch.tensor([0, 1])), ("item", torch.tensor([0, 1])), pairs=True)
    assert torch.equal(user.factors, torch.stack([torch.zeros(WIDTH), table.weight[2, :-1]]))
    assert user.bias.tolist() == [0.0, pytest.approx(table.weight[2, -1].item())]
    assert not torch.cat([item.factors.flatten(), item.bias, item.squares]).any()
    (user.factors.sum() + user.bias.sum() + item.factors.sum()).backward()
    assert gradient(table)._indices().tolist() == [[2]]


def test_each_field_has_rows_of_its_own() -> None:
    table = make_table(sparse=True)
    assert table.names == {"user": ("id", "age"), "item": ("id", "tags", "words")}
    assert table.weight.shape == (1 + 11 + 3 + 14 + 8 + 5, WIDTH + 1)
    assert not table.weight[0].any()
    assert len(table.weight.unique(dim=0)) == len(table.weight)
    assert list(table.state_dict()) == ["weight"]


def test_a_side_without_coded_fields_is_empty() -> None:
    table = make_table(sparse=True, fields={"user": make_fields()["user"], "item": {}})
    part: Part = ("item", torch.tensor([5, 7]))
    terms, sums = table.terms(part)[0], table.sums(part, pairs=True)[0]
    assert [tuple(tensor.shape) for tensor in terms] == [(2, 0), (2, 0, WIDTH)]
    assert not torch.cat([sums.bias, sums.factors.flatten(), sums.squares]).any()


def test_what_is_read_does_not_depend_on_the_batch() -> None:
    table, (user, item, _) = make_table(sparse=True), make_parts()
    together = table.sums(user, item, pairs=True)
    for row in range(0, 50, 7):
        alone = table.sums((user[0], user[1][row : row + 1]), pairs=True)[0]
        assert all(torch.equal(one, many[row : row + 1]) for one, many in zip(alone, together[0], strict=True))


@pytest.mark.parametrize("index", [-1, ITEMS])
def test_an_index_outside_its_side_is_an_error(index: int) -> None:
    table = make_table(sparse=True)
    with pytest.raises(IndexError):
        table.terms(("item", torch.tensor([0, index])))
    with pytest.raises(IndexError):
        table.sums(("item", torch.tensor([0, index])), pairs=True)
