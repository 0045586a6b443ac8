"""One embedding table for all coded fields of a model, read and differentiated by compiled loops.

Shapes: R rows of the table, W factors of a row, N users or items, B of them in a batch, F coded fields of their side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

from factorlm.data.fields import CodedField, MultiHotField, Side
from factorlm.heads.base import Terms
from factorlm.models.kernels import Array, Layout, gather_sums, gather_terms, scatter_sums, scatter_terms

Part = tuple[Side, Tensor]  # a side, and indices [B] of its users or items
LAYOUT = ("ones", "starts", "rows", "shares")  # the arrays of a `Layout`


class Sums(NamedTuple):
    """Sums over the fields of a side: ``bias`` [B], ``factors`` [B, W], and of squared lengths, ``squares`` [B]."""

    bias: Tensor
    factors: Tensor
    squares: Tensor

    def take(self, index: Tensor) -> Sums:
        """The rows at places ``index``."""
        return Sums(self.bias[index], self.factors[index], self.squares[index])


class Table(nn.Module):
    r"""The embeddings of all id, categorical and multi-hot fields of users and items.

    ``weight`` [R, W + 1] has a range of rows for each field; the last column holds the linear weights. Row 0 is zero
    and stays so: it is for a value that training never saw. A field with rows r of shares c_r (a single row has share
    1) yields

    .. math:: v_f, w_f = \sum_r c_r \, \text{weight}_r

    Read all that a step needs in one call of `sums` or `terms`: the gradient then has the rows that the batch touched
    and no others, each once, summed over the batch. (They are not in order, so the sparse tensor does not claim to be
    coalesced.) On a GPU plain autograd takes the place of the compiled loops.

    Args:
        fields: coded fields of each side by name.
        width: W; the K of a factorization machine.
        init_std: deviation of the initial factors; linear weights begin at 0.
        sparse: whether gradients are sparse, as row-wise optimizers want them, or of the table's shape; may change.

    Attributes:
        names: fields of each side in the order of `terms`: single ones first, then multi-hot ones.
    """

    def __init__(
        self,
        fields: Mapping[Side, Mapping[str, CodedField | MultiHotField]],
        width: int,
        init_std: float,
        *,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.sparse = sparse
        self.names: dict[Side, tuple[str, ...]] = {}
        self.layouts: dict[Side, Layout] = {}
        rows = 1
        for side, content in fields.items():
            single = [name for name, field in content.items() if isinstance(field, CodedField)]
            self.names[side] = (*single, *(name for name in content if name not in single))
            offsets = {}
            for name in self.names[side]:
                offsets[name], rows = rows - 1, rows + content[name].num_codes - 1
            self.layouts[side] = _layout(content, offsets)
            for name, array in zip(LAYOUT, self.layouts[side], strict=True):
                self.register_buffer(f"{side}_{name}", torch.from_numpy(array), persistent=False)
        weight = torch.from_numpy(np.zeros((rows, width + 1), np.float32))  # in large pages of memory
        weight[1:, :width] = torch.randn(rows - 1, width) * init_std
        self.weight = nn.Parameter(weight)
        self.places = np.zeros(rows, np.int32)  # scratch of the loops

    def sums(self, *parts: Part, pairs: bool) -> list[Sums]:
        r"""Sums over the fields of each part; with ``pairs`` the bias has the pairs within the side:

        .. math:: \sum_f w_f + [\text{pairs}] \sum_{f<g} \langle v_f, v_g \rangle, \quad \sum_f v_f, \quad
            \sum_f |v_f|^2
        """
        if self.weight.device.type != "cpu":
            return [sums_of(self.plain(part), pairs=pairs) for part in parts]
        flat = _ReadSums.apply(self.weight, self, float(pairs), parts)  # type: ignore[no-untyped-call]
        return [Sums(*flat[place : place + 3]) for place in range(0, len(flat), 3)]

    def terms(self, *parts: Part) -> list[Terms]:
        """What each field of each part yields: ``linear`` [B, F] and ``factors`` [B, F, W]."""
        if self.weight.device.type != "cpu":
            return [self.plain(part) for part in parts]
        flat = _ReadTerms.apply(self.weight, self, parts)  # type: ignore[no-untyped-call]
        return [Terms(*flat[place : place + 2]) for place in range(0, len(flat), 2)]

    def plain(self, part: Part) -> Terms:
        """`terms` of one part by plain autograd: what the compiled loops are tested against."""
        side, index = part
        ones, starts, rows, shares = (getattr(self, f"{side}_{name}") for name in LAYOUT)
        vectors = embedding(ones[index], self.weight, padding_idx=0, sparse=self.sparse)
        multi = len(self.names[side]) - ones.shape[1]
        if multi:
            bag = (index.unsqueeze(1) * multi + torch.arange(multi, device=index.device)).flatten()
            counts = starts[bag + 1] - starts[bag]
            owner = torch.arange(len(bag), device=index.device).repeat_interleave(counts)
            entry = torch.arange(len(owner), device=index.device) + (starts[bag] + counts - counts.cumsum(0))[owner]
            values = embedding(rows[entry], self.weight, sparse=self.sparse) * shares[entry].unsqueeze(1)
            bags = values.new_zeros(len(bag), values.shape[1]).index_add(0, owner, values)
            vectors = torch.cat([vectors, bags.view(len(index), multi, -1)], 1)
        return Terms(vectors[..., -1], vectors[..., :-1])


def sums_of(terms: Terms, *, pairs: bool) -> Sums:
    """What `Table.sums` reads, from what `Table.terms` reads; for fields that are not in the table."""
    factors, squares = terms.factors.sum(1), terms.factors.square().sum((1, 2))
    bias = terms.linear.sum(1)
    return Sums(bias + 0.5 * (factors.square().sum(1) - squares) if pairs else bias, factors, squares)


class _ReadSums(torch.autograd.Function):
    """`Table.sums`, flat: bias, factors and squares of each part."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, table: Table, pairs: float, parts: tuple[Part, ...]) -> tuple[Tensor, ...]:
        flat: list[Tensor] = []
        for side, index in parts:
            size = len(index)
            out = [_empty(weight, *shape) for shape in ((size,), (size, weight.shape[1] - 1), (size,))]
            gather_sums(_array(weight), table.layouts[side], _array(index), pairs, *map(_array, out))
            flat += out
        ctx.save_for_backward(weight, *flat[1::3])
        ctx.table, ctx.pairs, ctx.parts = table, pairs, parts
        return tuple(flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *read = ctx.saved_tensors
        gradient = _Gradient(ctx.table, ctx.parts)
        for number, (side, index) in enumerate(ctx.parts):
            place = _array(weight), ctx.table.layouts[side], _array(index), ctx.pairs, _array(read[number])
            bias, factors, squares = map(_array, grads[3 * number : 3 * number + 3])
            gradient.count = scatter_sums(*place, bias, factors, squares, gradient.room, gradient.count)
        return gradient.tensor(), None, None, None


class _ReadTerms(torch.autograd.Function):
    """`Table.terms`, flat: linear and factors of each part."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, table: Table, parts: tuple[Part, ...]) -> tuple[Tensor, ...]:
        flat: list[Tensor] = []
        for side, index in parts:
            shape = len(index), len(table.names[side])
            out = [_empty(weight, *shape), _empty(weight, *shape, weight.shape[1] - 1)]
            gather_terms(_array(weight), table.layouts[side], _array(index), *map(_array, out))
            flat += out
        ctx.table, ctx.parts = table, parts
        return tuple(flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _Gradient(ctx.table, ctx.parts)
        for number, (side, index) in enumerate(ctx.parts):
            place = ctx.table.layouts[side], _array(index)
            linear, factors = map(_array, grads[2 * number : 2 * number + 2])
            gradient.count = scatter_terms(*place, linear, factors, gradient.room, gradient.count)
        return gradient.tensor(), None, None


class _Gradient:
    """The rows that parts touch, each once, and their gradients; loops fill ``room`` and tell ``count``."""

    def __init__(self, table: Table, parts: tuple[Part, ...]) -> None:
        entries = 0
        for side, index in parts:
            ones, starts, _, _ = table.layouts[side]
            multi = len(table.names[side]) - ones.shape[1]
            entries += len(index) * ones.shape[1]
            if multi:
                first = _array(index) * multi
                entries += int((starts[first + multi] - starts[first]).sum())
        capacity = min(entries, len(table.weight))
        self._touched = torch.from_numpy(np.empty(capacity, np.int64))
        self._values = _empty(table.weight, capacity, table.weight.shape[1])
        self._table = table
        self.room = table.places, _array(self._touched), _array(self._values)
        self.count = 0

    def tensor(self) -> Tensor:
        """The gradient of the table, as the table wants it."""
        weight, touched, values = self._table.weight, self._touched[: self.count], self._values[: self.count]
        if not self._table.sparse:
            return torch.zeros_like(weight).index_copy_(0, touched, values)
        return torch.sparse_coo_tensor(touched.unsqueeze(0), values, weight.shape, check_invariants=False)


def _empty(like: Tensor, *shape: int) -> Tensor:
    """Of the type of another; deterministic torch would fill it."""
    return torch.from_numpy(np.empty(shape, _array(like[:0]).dtype))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().contiguous().numpy()


def _layout(fields: Mapping[str, CodedField | MultiHotField], offsets: Mapping[str, int]) -> Layout:
    """Code c > 0 of a field has row ``offset + c``; a side without fields takes any index."""
    size = max((len(field.codes) for field in fields.values()), default=2**31)
    ones, rows, shares, counts = ([cast(Array, np.zeros((size, 0)))] for _ in range(4))
    for name, field in fields.items():
        if isinstance(field, MultiHotField):
            rows.append(field.codes + offsets[name])
            shares.append(field.weights)
            counts.append((field.weights > 0).sum(1, keepdims=True))
        else:
            ones.append(np.where(field.codes > 0, field.codes + offsets[name], 0)[:, None])
    share = np.concatenate(shares, 1)
    return (
        np.concatenate(ones, 1).astype(np.int32),
        np.concatenate([[0], np.concatenate(counts, 1).ravel().cumsum()]).astype(np.int64),
        np.concatenate(rows, 1)[share > 0].astype(np.int32),
        share[share > 0].astype(np.float32),
    )
