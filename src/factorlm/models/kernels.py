"""Compiled loops over the rows of an embedding table: reading, gradients and updates of the touched rows only.

Shapes: R rows of a table, W factors of a row, N users or items, B of them in a batch, F fields of a side, n touched
rows. A table has W + 1 columns, the last one the linear weights; its row 0 is zero and never touched. Rows lie far
apart in memory, so each loop asks for them some turns before it reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

Array = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

NEAR, FAR = 6, 20  # turns ahead: rows of a table, rows of a layout
AHEAD = 16  # turns ahead: rows of a table whose order is at hand


Layout = tuple[Array, Array, Array, Array]
"""Where the coded fields of a side are in the table, single fields first.

``ones`` [N, S]: the row of each of S single fields, 0 where absent. ``starts`` [N M + 1]: where the values of multi-hot
field m of index i begin, at i M + m, in ``rows`` and ``shares``; the shares of one field and index sum to 1. A plain
tuple, because the machine code on disk must not depend on a class of ours.
"""
Room = tuple[Array, Array, Array]
"""Where a gradient is put together.

``places`` [R], not negative: where each row may be among the touched. ``touched`` [n] rows, each once, and ``values``
[n, W + 1], their gradients, both with room for more.
"""


def compiled(function: Function) -> Function:
    """Compile at the first call and keep the machine code on disk; a sum may be taken in another order."""
    fast = {"reassoc", "contract", "nsz"}
    result: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=fast)(function)
    return result  # type: ignore[no-any-return]


@intrinsic
def _prefetch(context: Any, array: Any, row: Any) -> Any:
    def code(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = target.make_array(signature.args[0])(target, builder, arguments[0])
        byte, int32, int64 = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
        stride = cgutils.unpack_tuple(builder, values.strides)[0]  # type: ignore[no-untyped-call]
        first = builder.gep(builder.bitcast(values.data, byte), [builder.mul(arguments[1], stride)])
        last = builder.gep(first, [builder.sub(stride, int64(1))])
        kind = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        for address in (first, last)[: array.ndim]:
            builder.call(call, [address, int32(0), int32(3), int32(1)])
        return target.get_dummy_value()

    return types.void(array, types.intp), code


prefetch: Any = _prefetch  # (array, row): asks for a row of up to 128 bytes, without waiting for it


@compiled
def _layout_ahead(index: Array, b: int, ones: Array) -> None:
    if b + FAR < len(index):
        prefetch(ones, index[b + FAR])


@compiled
def _rows_ahead(index: Array, b: int, ones: Array, table: Array) -> None:
    if b + NEAR < len(index):
        for s in range(ones.shape[1]):
            prefetch(table, ones[index[b + NEAR], s])


@compiled
def _check(i: int, ones: Array) -> None:
    if i < 0 or i >= len(ones):
        raise IndexError("an index is outside the table of its side")


@compiled
def _mean(weight: Array, layout: Layout, start: int, end: int, mean: Array) -> None:
    """Sum of rows times their shares, all columns."""
    _, _, rows, shares = layout
    mean[:] = 0
    for e in range(start, end):
        for k in range(len(mean)):
            mean[k] += shares[e] * weight[rows[e], k]


@compiled
def _place(row: int, room: Room, count: int) -> int:
    """Place of a row among the ``count`` touched so far; ``count`` for a new one, which is noted there."""
    places, touched, _ = room
    place = places[row]
    if place < count and touched[place] == row:
        return place  # type: ignore[no-any-return]
    places[row], touched[count] = count, row
    return count


@compiled
def _add(row: int, share: float, factors: Array, line: float, room: Room, count: int) -> int:
    """Add a share of a gradient to a row's; the number of touched rows now."""
    _, _, values = room
    place, width = _place(row, room, count), values.shape[1] - 1
    if place == count:
        count += 1
        values[place] = 0
    for k in range(width):
        values[place, k] += share * factors[k]
    values[place, width] += share * line
    return count


@compiled
def gather_sums(
    weight: Array, layout: Layout, index: Array, pairs: float, bias: Array, factors: Array, squares: Array
) -> None:
    r"""Sums over the F fields of a side, into ``bias`` [B], ``factors`` [B, W] and ``squares`` [B]:

    .. math:: \sum_f w_f + \text{pairs} \sum_{f<g} \langle v_f, v_g \rangle, \quad \sum_f v_f, \quad \sum_f |v_f|^2
    """
    ones, starts, _, _ = layout
    width, multi = weight.shape[1] - 1, (len(starts) - 1) // len(ones)
    mean = np.empty(width + 1, weight.dtype)
    half = weight.dtype.type(pairs / 2)
    for b in range(len(index)):
        _layout_ahead(index, b, ones)
        _rows_ahead(index, b, ones, weight)
        i = index[b]
        _check(i, ones)
        line = square = whole = weight.dtype.type(0)
        for k in range(width):
            factors[b, k] = 0
        for s in range(ones.shape[1]):
            row = ones[i, s]
            line += weight[row, width]
            for k in range(width):
                value = weight[row, k]
                factors[b, k] += value
                square += value * value
        for m in range(i * multi, i * multi + multi):
            _mean(weight, layout, starts[m], starts[m + 1], mean)
            line += mean[width]
            for k in range(width):
                factors[b, k] += mean[k]
                square += mean[k] * mean[k]
        for k in range(width):
            whole += factors[b, k] * factors[b, k]
        bias[b], squares[b] = line + half * (whole - square), square


@compiled
def scatter_sums(
    weight: Array,
    layout: Layout,
    index: Array,
    pairs: float,
    read: Array,
    bias: Array,
    factors: Array,
    squares: Array,
    room: Room,
    count: int,
) -> int:
    r"""Gradient of `gather_sums`. A row of field f gets, c being its share and S what was read as ``factors``,

    .. math:: c (\nabla\text{factors} + \text{pairs} \nabla\text{bias} (S - v_f) + 2 \nabla\text{squares} v_f), \quad
        c \nabla\text{bias}

    Args:
        weight, layout, index, pairs: as they were read.
        read: [B, W] S.
        bias, factors, squares: gradients of what was read.
        room: where the gradient goes.
        count: n, rows touched so far.

    Returns:
        n now.
    """
    ones, starts, rows, shares = layout
    places, _, values = room
    width, multi = weight.shape[1] - 1, (len(starts) - 1) // len(ones)
    mean, common = np.empty(width + 1, weight.dtype), np.empty(width, weight.dtype)
    own = weight.dtype.type(pairs)
    for b in range(len(index)):
        _layout_ahead(index, b, ones)
        _rows_ahead(index, b, ones, weight)
        _rows_ahead(index, b, ones, places)
        i, line = index[b], bias[b]
        slope = squares[b] + squares[b] - own * line
        for k in range(width):
            common[k] = factors[b, k] + own * line * read[b, k]
        for s in range(ones.shape[1]):
            row = ones[i, s]
            if row == 0:
                continue
            place = _place(row, room, count)
            if place == count:
                count += 1
                for k in range(width):
                    values[place, k] = common[k] + slope * weight[row, k]
                values[place, width] = line
            else:
                for k in range(width):
                    values[place, k] += common[k] + slope * weight[row, k]
                values[place, width] += line
        for m in range(i * multi, i * multi + multi):
            _mean(weight, layout, starts[m], starts[m + 1], mean)
            for k in range(width):
                mean[k] = common[k] + slope * mean[k]
            for e in range(starts[m], starts[m + 1]):
                count = _add(rows[e], shares[e], mean, line, room, count)
    return count


@compiled
def gather_terms(weight: Array, layout: Layout, index: Array, linear: Array, factors: Array) -> None:
    """What the F fields of a side yield, into ``linear`` [B, F] and ``factors`` [B, F, W]."""
    ones, starts, _, _ = layout
    width, single, multi = weight.shape[1] - 1, ones.shape[1], (len(starts) - 1) // len(ones)
    mean = np.empty(width + 1, weight.dtype)
    for b in range(len(index)):
        _layout_ahead(index, b, ones)
        _rows_ahead(index, b, ones, weight)
        i = index[b]
        _check(i, ones)
        for s in range(single):
            row = ones[i, s]
            linear[b, s] = weight[row, width]
            for k in range(width):
                factors[b, s, k] = weight[row, k]
        for m in range(multi):
            _mean(weight, layout, starts[i * multi + m], starts[i * multi + m + 1], mean)
            linear[b, single + m] = mean[width]
            for k in range(width):
                factors[b, single + m, k] = mean[k]


@compiled
def scatter_terms(layout: Layout, index: Array, linear: Array, factors: Array, room: Room, count: int) -> int:
    """Gradient of `gather_terms`: each row gets its share of its field's; arguments and result as of `scatter_sums`."""
    ones, starts, rows, shares = layout
    places, _, values = room
    width, single, multi = factors.shape[2], ones.shape[1], (len(starts) - 1) // len(ones)
    for b in range(len(index)):
        _layout_ahead(index, b, ones)
        _rows_ahead(index, b, ones, places)
        i = index[b]
        for s in range(single):
            row = ones[i, s]
            if row == 0:
                continue
            place = _place(row, room, count)
            if place == count:
                count += 1
                for k in range(width):
                    values[place, k] = factors[b, s, k]
                values[place, width] = linear[b, s]
            else:
                for k in range(width):
                    values[place, k] += factors[b, s, k]
                values[place, width] += linear[b, s]
        for m in range(multi):
            for e in range(starts[i * multi + m], starts[i * multi + m + 1]):
                vector, line = factors[b, single + m], linear[b, single + m]
                count = _add(rows[e], shares[e], vector, line, room, count)
    return count


@compiled
def repeats(rows: Array, bits: Array) -> bool:
    """Whether a row occurs twice; ``bits`` [R / 64 + 1] are 0 before and after."""
    found = False
    for row in rows:
        bit = np.uint64(1) << np.uint64(row & 63)
        found |= bits[row >> 6] & bit != 0
        bits[row >> 6] |= bit
    for row in rows:
        bits[row >> 6] = 0
    return found


@compiled
def row_adagrad(weight: Array, touched: Array, values: Array, sums: Array, lr: float, eps: float) -> None:
    """One step of row-wise Adagrad; see `factorlm.training.optimizers.RowAdagrad`.

    Args:
        weight, touched, values: what moves [R, W + 1], the rows, and their gradients [n, W + 1].
        sums: [R, 2] of squared gradients, of the factors (their mean) and of the linear weights.
        lr, eps: learning rate, and what is added to the roots.
    """
    width = weight.shape[1] - 1
    rate, small = weight.dtype.type(lr), weight.dtype.type(eps)
    share = weight.dtype.type(1 / max(width, 1))
    for j in range(len(touched)):
        if j + AHEAD < len(touched):
            prefetch(weight, touched[j + AHEAD])
            prefetch(sums, touched[j + AHEAD])
        row, line = touched[j], values[j, width]
        square = weight.dtype.type(0)
        for k in range(width):
            square += values[j, k] * values[j, k]
        sums[row, 0] += square * share
        sums[row, 1] += line * line
        step = rate / (np.sqrt(sums[row, 0]) + small)
        for k in range(width):
            weight[row, k] -= step * values[j, k]
        weight[row, width] -= rate / (np.sqrt(sums[row, 1]) + small) * line


@compiled
def row_adam(
    weight: Array,
    touched: Array,
    values: Array,
    first: Array,
    second: Array,
    rates: tuple[float, float],
    scales: tuple[float, float],
    eps: float,
) -> None:
    """One step of Adam on the touched rows of ``weight`` and of its moments ``first`` and ``second`` [R, W + 1].

    Args:
        weight, touched, values: what moves, the rows, and their gradients [n, W + 1].
        first, second: moments.
        rates: 1 - beta, of each moment.
        scales: learning rate over the correction of the first moment; one over the root of that of the second.
        eps: added to the root of the second moment.
    """
    kind = weight.dtype.type
    gain, gain2, step, root, small = kind(rates[0]), kind(rates[1]), kind(scales[0]), kind(scales[1]), kind(eps)
    for j in range(len(touched)):
        if j + AHEAD < len(touched):
            prefetch(weight, touched[j + AHEAD])
            prefetch(first, touched[j + AHEAD])
            prefetch(second, touched[j + AHEAD])
        row = touched[j]
        for k in range(weight.shape[1]):
            value = values[j, k]
            first[row, k] += gain * (value - first[row, k])
            second[row, k] += gain2 * (value * value - second[row, k])
            weight[row, k] -= step * first[row, k] / (np.sqrt(second[row, k]) * root + small)
