"""Ranks of held-out positives, and every accuracy metric as a function of them.

Tied scores earn the expectation over random tie-breaks: a positive with ``higher`` candidates above it and ``tied``
candidates level with it (itself included) has each of the ranks higher + 1 .. higher + tied with equal probability.
A constant scorer therefore scores at chance, whatever the order of its rows.

Shapes: U users, N candidates, P positives, k cut-off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DEFINITIONS = "ranking/1"  # of the metrics below: it belongs to the protocol, raise it when a value changes meaning
NAMES = ("precision", "recall", "f1", "ndcg", "hit", "mrr")


class Ranks(NamedTuple):
    """Tie-aware ranks: ``higher`` [P] candidates above each positive, ``tied`` [P] level with it, itself included."""

    higher: Tensor
    tied: Tensor


def positive_ranks(scores: Tensor, rows: Tensor, columns: Tensor, block: int = 4096) -> Ranks:
    """Rank positives among the candidates of their row.

    Args:
        scores: [U, N]; excluded candidates are -inf.
        rows, columns: [P] position of each positive in ``scores``.
        block: positives compared at once; bounds memory to ``block * N`` comparisons.

    Raises:
        ValueError: a score is NaN, or a positive's is infinite.
    """
    if scores.isnan().any():
        raise ValueError("scores contain NaN: the model has diverged")
    own = scores[rows, columns]
    if not own.isfinite().all():
        raise ValueError("the score of a held-out positive is infinite: it is excluded, or the model has diverged")
    higher, tied = torch.empty_like(rows), torch.empty_like(rows)
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        row_scores, level = scores[rows[part]], own[part].unsqueeze(1)
        higher[part] = (row_scores > level).sum(1)
        tied[part] = (row_scores == level).sum(1)
    return Ranks(higher, tied)


def ranking_metrics(ranks: Ranks, rows: Tensor, num_rows: int, ks: Sequence[int]) -> dict[str, Tensor]:
    """Accuracy of each user.

    With h the expected number of positives in the first k ranks and n the user's positives:
    ``precision@k = h / k``; ``recall@k = h / n``; ``f1@k = 2 h / (k + n)``, their harmonic mean; ``hit@k`` the
    probability that the first k ranks hold a positive; ``mrr@k`` the expected reciprocal rank of the first positive, 0
    beyond k; ``ndcg@k`` the expected sum of 1 / log2(1 + rank) over positives in the first k ranks, divided by that of
    min(n, k) positives at the top. Gains are binary.

    Args:
        ranks: of P positives.
        rows: [P] user row of each positive.
        num_rows: U; rows without a positive get NaN, so that they count in no mean.
        ks: cut-offs.

    Returns:
        ``{"ndcg@10": [U] float64, ...}``.
    """
    higher, tied = ranks.higher.double(), ranks.tied.double()
    count = torch.zeros(num_rows, dtype=torch.float64).index_add_(0, rows, torch.ones_like(higher))
    empty = torch.where(count > 0, 0.0, torch.nan)
    depth = int((ranks.higher + ranks.tied).max()) if len(rows) else 0
    rank = torch.arange(1, max(depth, *ks) + 1, dtype=torch.float64)
    discounted = torch.cat([torch.zeros(1, dtype=torch.float64), (1 / torch.log2(1 + rank)).cumsum(0)])
    first = _first_positive(ranks, rows, num_rows)
    result = {}
    for k in ks:
        inside = (k - higher).clamp(min=0).minimum(tied)  # ranks of the tie group within the first k
        hits = _sum_by(inside / tied, rows, num_rows)
        last = (higher + inside).long()
        gain = (discounted[last] - discounted[ranks.higher.minimum(last)]) / tied
        result[f"precision@{k}"] = hits / k + empty
        result[f"recall@{k}"] = hits / count
        result[f"f1@{k}"] = 2 * hits / (k + count) + empty
        result[f"ndcg@{k}"] = _sum_by(gain, rows, num_rows) / discounted[count.clamp(max=k).long()]
        hit, reciprocal = _first_hit(*first, k)
        result[f"hit@{k}"] = hit + empty
        result[f"mrr@{k}"] = reciprocal + empty
    return result


def _sum_by(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    return torch.zeros(num_rows, dtype=values.dtype).index_add_(0, rows, values)


def _first_positive(ranks: Ranks, rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each user the highest tie group that holds a positive: candidates above, its size, positives in it [U]."""
    higher = torch.full((num_rows,), torch.iinfo(torch.int64).max).scatter_reduce(0, rows, ranks.higher, "amin")
    in_first = ranks.higher == higher[rows]
    size = torch.ones(num_rows, dtype=torch.int64).scatter_reduce(0, rows[in_first], ranks.tied[in_first], "amax")
    positives = _sum_by(in_first.long(), rows, num_rows)
    return higher, size, positives


def _first_hit(higher: Tensor, size: Tensor, positives: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Probability that the first positive is within k, and its expected reciprocal rank there [U].

    In a tie group of t candidates with m positives the j-th is the first positive with probability
    C(t - j, m - 1) / C(t, m); it follows from the j - 1 before it being negatives.
    """
    negatives = (size - positives).double()
    none_before = torch.ones_like(negatives)  # probability that the first j - 1 of the group are negatives
    hit, reciprocal = torch.zeros_like(negatives), torch.zeros_like(negatives)
    for j in range(1, k + 1):
        rank = higher.double() + j
        left = (size - (j - 1)).clamp(min=1).double()
        here = none_before * torch.where(j <= size, (left - (negatives - (j - 1)).clamp(min=0)) / left, 0.0)
        here = torch.where(rank <= k, here, 0.0)
        hit, reciprocal = hit + here, reciprocal + here / rank
        none_before = none_before * (negatives - (j - 1)).clamp(min=0) / left
    return hit, reciprocal
