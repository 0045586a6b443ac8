"""Where the positives of each row rank, ties included.

Tied scores earn the expectation over random tie-breaks: a positive with ``higher`` candidates above it and ``tied``
candidates level with it (itself included) has each of the ranks higher + 1 .. higher + tied with equal probability.
A constant scorer therefore scores at chance, whatever the order of its rows.

A metric at k needs nothing of what lies beyond rank k, so only the first ``depth`` scores of a row are looked at. Full
rows are read again only where a tie reaches across that depth.

Shapes: U rows (a user's question each), N candidates, P positives, G tie groups that hold a positive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factorlm.metrics.largest import largest

BLOCK = 64  # neighbouring scores of which only the largest is looked at first


def by_value(values: Tensor, function: Callable[[float], float]) -> Tensor:
    """A function of each value, float64, equal to the last bit for equal values.

    Vectorized logarithms and powers are not: the end of a tensor takes another path than its middle.

    >>> by_value(torch.tensor([4.0, 1.0, 4.0]), lambda value: value**0.5)
    tensor([2., 1., 2.], dtype=torch.float64)
    """
    distinct, place = values.unique(return_inverse=True)
    return torch.tensor([function(value) for value in distinct.tolist()], dtype=torch.float64)[place]


class Top(NamedTuple):
    """The ``depth`` largest scores of each row, descending: ``values`` [U, depth] and their ``columns``."""

    values: Tensor
    columns: Tensor


class Ranks(NamedTuple):
    """For each of P positives the candidates ``higher`` and ``tied`` (itself included); higher = depth: beyond it."""

    higher: Tensor
    tied: Tensor


@dataclass(frozen=True)
class Positives:
    """Tie groups that hold positives, ordered by row and rank: the same whatever order the candidates came in.

    Attributes:
        row, higher, tied, hits: [G] its row, candidates above it, its size, positives in it (float64 but for ``row``).
        above: [G] positives of the row in higher groups.
        count: [U] positives of each row; NaN where there is none, so that the row counts in no mean.
        grades: [P] of all positives, by row and descending; ``grade_rows`` their rows.
        group, group_grades: [P'] group of each positive that ranks within the depth, and its grade, ascending.
    """

    row: Tensor
    higher: Tensor
    tied: Tensor
    hits: Tensor
    above: Tensor
    count: Tensor
    grades: Tensor
    grade_rows: Tensor
    group: Tensor
    group_grades: Tensor

    def sum(self, values: Tensor) -> Tensor:
        """Add values [G] up by row: [U], NaN for a row without a positive."""
        return (0 * self.count).index_add_(0, self.row, values)


def top_scores(scores: Tensor, depth: int) -> Top:
    """The largest scores of each row; the same values as ``torch.topk`` in a third of its time on long rows.

    A row's largest scores lie in the blocks with the largest maxima, and maxima are found at the speed of memory.

    Args:
        scores: [U, N].
        depth: how many; at most N are returned.

    Raises:
        ValueError: a row's largest score is NaN or infinite.
    """
    size = scores.shape[1]
    whole = size // BLOCK
    if whole <= 2 * depth or scores.device.type != "cpu" or not scores.is_contiguous():
        top = Top(*scores.topk(min(depth, size), 1))
        maxima = top.values  # NaN and inf come first
    else:
        blocks = scores[:, : whole * BLOCK].unflatten(1, (whole, BLOCK)).amax(2)
        rest = scores[:, whole * BLOCK :]
        maxima = torch.cat([blocks, rest.amax(1, keepdim=True)], 1) if rest.shape[1] else blocks
        top = Top(scores.new_empty(len(scores), depth), torch.empty(len(scores), depth, dtype=torch.int64))
        largest(scores.numpy(), maxima.numpy(), BLOCK, top.values.numpy(), top.columns.numpy())
    if maxima.isnan().any():
        raise ValueError("scores contain NaN: the model has diverged")
    if maxima.isposinf().any():
        raise ValueError("scores contain infinity: the model has diverged")
    return top


def positive_ranks(scores: Tensor, top: Top, rows: Tensor, columns: Tensor) -> Ranks:
    """Rank positives among the candidates of their row.

    Args:
        scores: [U, N]; excluded candidates are -inf.
        top: of the scores.
        rows, columns: [P] position of each positive in ``scores``; column -1: it is no candidate and ranks nowhere.

    Raises:
        ValueError: a positive has no finite score.
    """
    absent = columns < 0
    own = scores[rows, columns].masked_fill(absent, torch.finfo(scores.dtype).min).unsqueeze(1)
    if not own.isfinite().all():
        raise ValueError("the score of a held-out positive is infinite: it is excluded, or the model has diverged")
    best = top.values[rows]
    depth = best.shape[1]
    higher, tied = (best > own).sum(1), (best == own).sum(1)
    if depth < scores.shape[1]:
        across = (best[:, -1:] == own).squeeze(1).nonzero().squeeze(1)
        tied[across] = _level(scores, rows[across], own[across])
    beyond = absent | (higher == depth)
    return Ranks(higher.masked_fill(beyond, depth), tied.masked_fill(beyond, 1))


def _level(scores: Tensor, rows: Tensor, level: Tensor, block: int = 1024) -> Tensor:
    """How many scores of each row are equal to ``level`` [n, 1]: [n]."""
    parts = [(scores[rows[i : i + block]] == level[i : i + block]).sum(1) for i in range(0, len(rows), block)]
    return torch.cat(parts) if parts else rows


def group_positives(ranks: Ranks, rows: Tensor, num_rows: int, depth: int, grades: Tensor | None = None) -> Positives:
    """Gather positives into tie groups.

    Args:
        ranks: of P positives.
        rows: [P] their rows.
        num_rows: U.
        depth: of the ranks.
        grades: [P] ratings of the positives; None: all are 1.
    """
    count = rows.bincount(minlength=num_rows).double()
    grades = torch.ones_like(rows, dtype=torch.float64) if grades is None else grades.double()
    by_grade = grades.argsort(stable=True)
    kept = by_grade[ranks.higher[by_grade] < depth]
    by_row = by_grade.flip(0)[rows[by_grade.flip(0)].argsort(stable=True)]
    key, group, hits = (rows[kept] * depth + ranks.higher[kept]).unique(return_inverse=True, return_counts=True)
    tied = torch.ones_like(key).scatter_(0, group, ranks.tied[kept])
    row, hits = key // depth, hits.double()
    before = hits.cumsum(0) - hits
    first = torch.searchsorted(row, row)
    return Positives(
        row=row,
        higher=(key % depth).double(),
        tied=tied.double(),
        hits=hits,
        above=before - before[first],
        count=torch.where(count > 0, count, torch.nan),
        grades=grades[by_row],
        grade_rows=rows[by_row],
        group=group,
        group_grades=grades[kept],
    )


def rank_positives(
    scores: Sequence[Sequence[float]],
    relevant: Sequence[Sequence[int]],
    grades: Sequence[Sequence[float]] | None = None,
) -> Positives:
    """Positives of small examples: ``scores`` [U, N], the columns of each row's positives and their grades.

    >>> example = rank_positives([[0.9, 0.5, 0.5, 0.1]], [[1, 3]])  # column 1 is level with column 2
    >>> example.higher, example.tied, example.count
    (tensor([1., 3.], dtype=torch.float64), tensor([2., 1.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    matrix = torch.tensor(scores, dtype=torch.float32)
    rows = torch.tensor([row for row, items in enumerate(relevant) for _ in items], dtype=torch.int64)
    columns = torch.tensor([item for items in relevant for item in items], dtype=torch.int64)
    gains = None if grades is None else torch.tensor([grade for row in grades for grade in row])
    depth = matrix.shape[1]
    ranks = positive_ranks(matrix, top_scores(matrix, depth), rows, columns)
    return group_positives(ranks, rows, len(matrix), depth, gains)
