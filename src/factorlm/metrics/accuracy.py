"""Accuracy of ranked lists, each metric a function of where the positives rank.

Every function takes `Positives` of U rows and a cut-off k, and returns [U] float64. Throughout: a row has n positives,
wherever they rank; a list shorter than k is not penalized otherwise than by what it misses; ties earn the expectation
over random tie-breaks, exactly; a row without a positive is NaN and counts in no mean. Gains are binary unless the name
says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from factorlm.metrics.ranks import Positives, Top, by_value, group_positives, positive_ranks, top_scores

# of what a name means: it belongs to the protocol; raise it when a value changes
VERSIONS = {"precision": 1, "recall": 1, "f1": 1, "ndcg": 1, "hit": 1, "mrr": 1, "map": 1, "rated_ndcg": 1, "err": 1}


def precision(positives: Positives, k: int) -> Tensor:
    """Positives in the first k ranks, divided by k, also where fewer than k candidates exist.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> precision(rank_positives([[0.9, 0.8, 0.7, 0.6]], [[0, 3]]), 2).item()  # one of two
    0.5
    >>> precision(rank_positives([[1.0, 1.0, 1.0, 1.0]], [[0, 3]]), 1).item()  # all tied: chance
    0.5
    """
    return positives.sum(_hits(positives, k)) / k


def recall(positives: Positives, k: int) -> Tensor:
    """Positives in the first k ranks, divided by n.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> recall(rank_positives([[0.9, 0.8, 0.7, 0.6]], [[0, 1, 3]]), 1).item()  # one of three
    0.3333333333333333
    """
    return positives.sum(_hits(positives, k)) / positives.count


def f1(positives: Positives, k: int) -> Tensor:
    """Harmonic mean of a row's precision and recall: 2 h / (k + n) with h positives in the first k ranks.

    The mean over users is a mean of harmonic means, not the harmonic mean of means.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> f1(rank_positives([[0.9, 0.8, 0.7, 0.6]], [[0, 3]]), 3).item()  # precision 1/3, recall 1/2
    0.4
    """
    return 2 * positives.sum(_hits(positives, k)) / (k + positives.count)


def hit(positives: Positives, k: int) -> Tensor:
    """1 if a positive is in the first k ranks; with ties the probability of that.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> hit(rank_positives([[0.9, 0.8, 0.7, 0.6]], [[1, 3]]), 2).item()
    1.0
    >>> hit(rank_positives([[0.5, 0.5, 0.5, 0.1]], [[1]]), 2).item()  # two of three places
    0.6666666666666667
    """
    first, _ = _first_hit(positives, k)
    return first.sum(1) + 0 * positives.count


def mrr(positives: Positives, k: int) -> Tensor:
    """1 / rank of the first positive, 0 beyond k; with ties its expectation.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> mrr(rank_positives([[0.9, 0.8, 0.7, 0.6]], [[1, 3]]), 3).item()
    0.5
    >>> mrr(rank_positives([[0.5, 0.5]], [[1]]), 2).item()  # rank 1 or 2: (1 + 1/2) / 2
    0.75
    """
    first, rank = _first_hit(positives, k)
    return (first / rank).sum(1) + 0 * positives.count


def map(positives: Positives, k: int) -> Tensor:
    """Precision at the rank of each positive in the first k, summed and divided by n (average precision).

    The tie expectation is that of F. McSherry and M. Najork, Computing Information Retrieval Performance Measures
    Efficiently in the Presence of Tied Scores, ECIR 2008.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> map(rank_positives([[0.9, 0.8, 0.7, 0.6]], [[0, 2, 3]]), 3).item()  # (1/1 + 2/3) / 3
    0.5555555555555555
    >>> map(rank_positives([[0.5, 0.5]], [[1]]), 2).item()  # (1 + 1/2) / 2
    0.75
    """
    inside = _inside(positives, k)
    harmonic = _cumulative(1 / torch.arange(1, k + 1, dtype=torch.float64))
    first = positives.higher.clamp(max=k).long()
    reciprocal = harmonic[(first + inside.long()).clamp(max=k)] - harmonic[first]
    # for the j-th place of a group: those above, itself, and the share of its own group that came before
    others = (positives.hits - 1) / (positives.tied - 1).clamp(min=1)
    before = inside - (positives.higher + 1) * reciprocal
    value = positives.hits / positives.tied * ((positives.above + 1) * reciprocal + others * before)
    return positives.sum(value) / positives.count


def ndcg(positives: Positives, k: int) -> Tensor:
    """Sum of 1 / log2(1 + rank) over positives in the first k ranks, divided by that of min(n, k) at the top.

    K. Järvelin and J. Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 20(4), 2002, with binary gain.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> round(ndcg(rank_positives([[0.9, 0.8, 0.7, 0.6]], [[0, 2]]), 3).item(), 6)  # (1 + 1/2) / (1 + 1/log2(3))
    0.919721
    """
    discounts = _cumulative(_discounts(k))
    ideal = discounts[positives.count.nan_to_num(1).clamp(max=k).long()]
    return positives.sum(positives.hits * _mean_discount(positives, k)) / ideal


def rated_ndcg(positives: Positives, k: int) -> Tensor:
    """NDCG whose gain is the rating: a five-star item at the top is worth more than a four-star item.

    The ideal list holds the row's positives by descending rating.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> example = rank_positives([[0.9, 0.8, 0.7]], [[0, 1]], [[4.0, 5.0]])
    >>> round(rated_ndcg(example, 2).item(), 6)  # (4 + 5/log2(3)) / (5 + 4/log2(3))
    0.950946
    """
    first = torch.searchsorted(positives.grade_rows, positives.grade_rows)
    place = torch.arange(len(first)) - first
    discounts = torch.where(place < k, _discounts(int(place.max()) + 1)[place] if len(place) else 0.0, 0.0)
    ideal = torch.zeros_like(positives.count).index_add_(0, positives.grade_rows, positives.grades * discounts)
    gains = torch.zeros_like(positives.hits).index_add_(0, positives.group, positives.group_grades)
    return positives.sum(gains * _mean_discount(positives, k)) / ideal


def err(positives: Positives, k: int, max_grade: float) -> Tensor:
    """Expected reciprocal rank: a user reads down the list and stops at an item with probability (2^g - 1) / 2^max.

    With g the grade of the item. O. Chapelle et al., Expected Reciprocal Rank for Graded Relevance, CIKM 2009,
    equations 4 and 7. With ties: in a group of t candidates the chance to be still reading after r of them, in random
    order, is f(r) = e_r(1 - R) / C(t, r), with e_r the elementary symmetric polynomial.

    >>> from factorlm.metrics.ranks import rank_positives
    >>> example = rank_positives([[0.9, 0.8, 0.7]], [[0, 2]], [[1.0, 2.0]])
    >>> err(example, 3, max_grade=2.0).item()  # stops with 1/4 at rank 1, else with 3/4 at rank 3
    0.4375
    """
    depth = min(k, int(positives.tied.max()) if len(positives.tied) else 0)
    passing = 1 - by_value(positives.group_grades, lambda grade: (2**grade - 1) / 2**max_grade)
    order = positives.group.argsort(stable=True)
    place = torch.arange(len(order)) - torch.searchsorted(positives.group[order], positives.group[order])
    symmetric = torch.zeros(len(positives.hits), depth + 1, dtype=torch.float64)
    symmetric[:, 0] = 1
    survived = torch.ones_like(positives.hits)  # of the whole group
    for i in range(int(place.max()) + 1 if len(place) else 0):
        members = order[place == i]
        group, factor = positives.group[members], passing[members]
        survived[group] *= factor
        symmetric[group, 1:] = symmetric[group, 1:] + factor.unsqueeze(1) * symmetric[group, :-1]
    # C(t - m, r - q) / C(t, r) for q of r being positives, as a product of quotients
    taken, tied = torch.arange(depth, dtype=torch.float64), positives.tied.unsqueeze(1)
    left = (tied - taken).clamp(min=1)
    negatives = ((tied - positives.hits.unsqueeze(1) - taken).clamp(min=0) / left).cumprod(1)
    negatives = torch.cat([torch.ones_like(tied), negatives], 1)
    window, reading = torch.ones_like(negatives), torch.zeros_like(negatives)
    for q in range(depth + 1):
        reading[:, q:] += symmetric[:, q : q + 1] * negatives[:, : depth + 1 - q] * window[:, q:]
        window[:, q + 1 :] *= ((taken + 1) / left)[:, : depth - q]
    stops = torch.zeros_like(positives.hits)
    for r in range(depth):  # one after the other: a sum over columns would depend on how many there are
        rank = positives.higher + r + 1
        stops += torch.where((rank <= k) & (r < positives.tied), (reading[:, r] - reading[:, r + 1]) / rank, 0.0)
    return positives.sum(stops * _before(positives, survived))


def _before(positives: Positives, survived: Tensor) -> Tensor:
    """Product of what ``survived`` [G] the higher groups of the row [G]."""
    place = torch.arange(len(survived)) - torch.searchsorted(positives.row, positives.row)
    before, running = torch.ones_like(survived), torch.ones_like(positives.count)
    for i in range(int(place.max()) + 1 if len(place) else 0):
        groups = (place == i).nonzero().squeeze(1)
        row = positives.row[groups]
        before[groups] = running[row]
        running[row] *= survived[groups]
    return before


def _hits(positives: Positives, k: int) -> Tensor:
    """Expected positives of each group in the first k ranks [G]."""
    return positives.hits * _inside(positives, k) / positives.tied


def _inside(positives: Positives, k: int) -> Tensor:
    """Places of each group within the first k ranks [G]."""
    return (k - positives.higher).clamp(min=0).minimum(positives.tied)


def _mean_discount(positives: Positives, k: int) -> Tensor:
    """Discount of a random place of each group, 0 beyond k [G]."""
    discounts = _cumulative(_discounts(k))
    first = positives.higher.clamp(max=k).long()
    last = first + _inside(positives, k).long()
    return (discounts[last] - discounts[first]) / positives.tied


def _discounts(size: int) -> Tensor:
    return 1 / torch.log2(torch.arange(2, size + 2, dtype=torch.float64))


def _cumulative(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, ... values."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])


def _first_hit(positives: Positives, k: int) -> tuple[Tensor, Tensor]:
    """Probability that the first positive of a row has the j-th place of its group, within k, and that rank [U, k].

    In a group of t candidates, m of them positive, the first j places hold none with probability
    C(t - m, j) / C(t, j).
    """
    leads = positives.above == 0
    row = positives.row[leads]
    place = torch.arange(k, dtype=torch.float64)
    tied, negatives = positives.tied[leads], (positives.tied - positives.hits)[leads]
    none = ((negatives.unsqueeze(1) - place).clamp(min=0) / (tied.unsqueeze(1) - place).clamp(min=1)).cumprod(1)
    here = torch.cat([torch.ones_like(none[:, :1]), none[:, :-1]], 1) - none
    rank = positives.higher[leads].unsqueeze(1) + place + 1
    first = torch.zeros(len(positives.count), k, dtype=torch.float64)
    ranks = torch.ones_like(first)
    first[row], ranks[row] = torch.where(rank <= k, here, 0.0), rank
    return first, ranks


BINARY: dict[str, Callable[[Positives, int], Tensor]] = {
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "ndcg": ndcg,
    "hit": hit,
    "mrr": mrr,
    "map": map,
}


def ranking_names(ks: Sequence[int], max_grade: float | None) -> list[str]:
    """Names of what `ranking_values` gives, as ``ndcg@10``."""
    graded = ("rated_ndcg", "err") if max_grade is not None else ()
    return [f"{name}@{k}" for k in ks for name in (*BINARY, *graded)]


def ranking_values(
    scores: Tensor,
    rows: Tensor,
    columns: Tensor,
    ks: Sequence[int],
    *,
    max_grade: float | None = None,
    grades: Tensor | None = None,
    top: Top | None = None,
) -> Tensor:
    """All metrics of U rows.

    Args:
        scores: [U, N] of the candidates, -inf where excluded.
        rows, columns: [P] position of each positive in ``scores``; column -1: it is no candidate.
        ks: cut-offs.
        max_grade: highest rating: adds ``rated_ndcg`` and ``err``.
        grades: [P] ratings of the positives.
        top: of the scores, at least as deep as the largest cut-off; None: it is found here.

    Returns:
        [U, M] in the order of `ranking_names`.

    Raises:
        ValueError: a score is NaN or infinite, or a positive is given twice.

    >>> values = ranking_values(torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([0]), torch.tensor([1]), [1, 2])
    >>> dict(zip(ranking_names([1, 2], None), values[0].tolist()))["mrr@2"]
    0.5
    """
    places = (rows * scores.shape[1] + columns)[columns >= 0]
    if len(places.unique()) < len(places):
        raise ValueError("a positive is given twice")
    top = top_scores(scores, max(ks)) if top is None else top
    depth = min(max(ks), top.values.shape[1])
    top = Top(top.values[:, :depth], top.columns[:, :depth])
    positives = group_positives(positive_ranks(scores, top, rows, columns), rows, len(scores), depth, grades)
    values = []
    for k in ks:
        values += [metric(positives, k) for metric in BINARY.values()]
        if max_grade is not None:
            values += [rated_ndcg(positives, k), err(positives, k, max_grade)]
    return torch.stack(values, 1)
