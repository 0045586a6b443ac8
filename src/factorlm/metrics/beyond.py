"""Beyond accuracy: what the recommended lists are made of, whether or not they please.

A list is the first k ranks of a row. Where a tie reaches across rank k, every member of the tied group is in the list
with the same probability, and each value is the expectation over random tie-breaks.

Shapes: U rows, N candidates, E entries of all lists, H features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.metrics.ranks import Top, by_value, top_scores

VERSIONS = {
    "coverage": 1,
    "gini": 1,
    "novelty": 1,
    "popularity": 1,
    "diversity": 1,
}  # as in `factorlm.metrics.accuracy`


@dataclass(frozen=True)
class Lists:
    """The entries of U lists, by row and item: the same whatever order the candidates were scored in.

    Attributes:
        row, column: [E].
        probability: [E] of being in the list; 1 but for members of a tie across its end.
        size: [U] entries of each list: k, or fewer where there are fewer candidates.
        drawn, tied: [U] of a tie across the end, the places left for it and its size; both 1 where there is none.
        num_candidates: N.
    """

    row: Tensor
    column: Tensor
    probability: Tensor
    size: Tensor
    drawn: Tensor
    tied: Tensor
    num_candidates: int

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values [E] over each list [U]; NaN for an empty one."""
        total = torch.zeros(len(self.size), dtype=torch.float64).index_add_(0, self.row, values * self.probability)
        return total / self.size


def make_lists(scores: Tensor, top: Top, k: int, items: Tensor | None = None) -> Lists:
    """The lists of the first k ranks.

    Args:
        scores: [U, N].
        top: of the scores, at least k deep; if deeper, a row is read again only where a tie goes on beyond it.
        k: cut-off.
        items: [N] number of each candidate, by which entries are ordered; None: its column.
    """
    values = top.values[:, :k]
    last = values[:, -1:]
    level = values == last
    drawn = level.sum(1)
    tied = drawn.clone()
    open_end = ((scores.shape[1] > values.shape[1]) & last.isfinite()).squeeze(1).nonzero().squeeze(1)
    if len(open_end):
        deeper = top.values[open_end]
        tied[open_end] = (deeper == last[open_end]).sum(1)
        across = open_end[deeper[:, -1] == last[open_end, 0]] if deeper.shape[1] < scores.shape[1] else open_end[:0]
        for row in across.split(1024):
            tied[row] = (scores[row] == last[row]).sum(1)
    split = tied > drawn
    row, place = (values.isfinite() & ~(level & split.unsqueeze(1))).nonzero(as_tuple=True)
    column, probability = top.columns[row, place], torch.ones(len(row), dtype=torch.float64)
    for part in split.nonzero().squeeze(1).split(1024):
        index, found = (scores[part] == last[part]).nonzero(as_tuple=True)
        row, column = torch.cat([row, part[index]]), torch.cat([column, found])
        probability = torch.cat([probability, (drawn.double() / tied)[part[index]]])
    by_item = column.argsort() if items is None else items[column].argsort()
    order = by_item[row[by_item].argsort(stable=True)]
    one = torch.ones_like(drawn)
    drawn, tied = torch.where(split, drawn, one), torch.where(split, tied, one)
    size = values.isfinite().sum(1).double()
    return Lists(row[order], column[order], probability[order], size, drawn, tied, scores.shape[1])


def lists_of(scores: Sequence[Sequence[float]], k: int) -> Lists:
    """The lists of small examples.

    >>> lists_of([[0.9, 0.5, 0.5]], 2).probability  # one of two tied items is in
    tensor([1.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    matrix = torch.tensor(scores)
    return make_lists(matrix, top_scores(matrix, k), k)


def exposure(lists: Lists) -> Tensor:
    """Expected number of lists that hold each candidate [N].

    >>> exposure(lists_of([[0.9, 0.5, 0.5], [0.1, 0.9, 0.2]], 1))
    tensor([1., 1., 0.], dtype=torch.float64)
    """
    return torch.zeros(lists.num_candidates, dtype=torch.float64).index_add_(0, lists.column, lists.probability)


def absence(lists: Lists) -> Tensor:
    """Log probability that no list holds each candidate [N]; over more lists it adds up.

    >>> absence(lists_of([[0.9, 0.5, 0.5], [0.9, 0.5, 0.5]], 2)).exp()  # (1/2)^2 for the tied ones
    tensor([0.0000, 0.2500, 0.2500], dtype=torch.float64)
    """
    zero = torch.zeros(lists.num_candidates, dtype=torch.float64)
    return zero.index_add_(0, lists.column, torch.log1p(-lists.probability))


def coverage(absence: Tensor) -> Tensor:
    """Share of the candidates that occur in at least one list, from `absence` [N].

    >>> round(coverage(absence(lists_of([[0.9, 0.5, 0.4], [0.9, 0.5, 0.4]], 2))).item(), 6)  # two of three
    0.666667
    """
    return 1 - absence.exp().mean()


def gini(exposure: Tensor) -> Tensor:
    """Inequality of `exposure` [N]: 0 if all candidates are recommended alike, near 1 if a few take all.

    ``sum_i (2 i - N - 1) e_i / (N sum e)`` over exposures e in ascending order, i from 1.

    >>> gini(torch.tensor([1.0, 1.0, 1.0])).item()
    0.0
    >>> round(gini(torch.tensor([0.0, 0.0, 3.0])).item(), 6)  # (2 * 3 - 3 - 1) * 3 / (3 * 3)
    0.666667
    """
    ordered = exposure.sort().values
    weight = 2 * torch.arange(1, len(ordered) + 1, dtype=ordered.dtype) - len(ordered) - 1
    return (weight * ordered).sum() / (len(ordered) * ordered.sum())


def novelty(lists: Lists, share: Tensor) -> Tensor:
    """Mean self-information of a list's items, -log2 of the share of users who have them, in bits [U].

    T. Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems, PNAS 107(10), 2010.

    Args:
        lists: of U rows.
        share: [N] of training users who have each candidate, above 0 (one user is added to both counts).

    >>> novelty(lists_of([[0.9, 0.5, 0.1]], 2), torch.tensor([0.5, 0.25, 0.25])).item()  # (1 + 2) / 2
    1.5
    """
    return lists.mean(by_value(share, lambda value: -math.log2(value))[lists.column])


def popularity(lists: Lists, share: Tensor) -> Tensor:
    """Mean share of training users who have a list's items [U]; arguments as `novelty`.

    Over users it is the average recommendation popularity of H. Abdollahpouri et al., Managing Popularity Bias in
    Recommender Systems with Personalized Re-ranking, FLAIRS 2019.

    >>> popularity(lists_of([[0.9, 0.5, 0.1]], 2), torch.tensor([0.5, 0.25, 0.25])).item()
    0.375
    """
    return lists.mean(share.double()[lists.column])


def diversity(lists: Lists, features: Tensor) -> Tensor:
    """Intra-list diversity: mean of 1 - cosine over the pairs of a list [U]; NaN for lists of one.

    C.-N. Ziegler et al., Improving Recommendation Lists Through Topic Diversification, WWW 2005.

    Args:
        lists: of U rows.
        features: [N, H] of the candidates, rows of length 1, or 0 where nothing is known.

    >>> genres = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(diversity(lists_of([[0.9, 0.5, 0.1]], 3), genres).item(), 6)  # one pair alike, two pairs different
    0.666667
    >>> diversity(lists_of([[0.9, 0.5, 0.5]], 2), genres).item()  # 0 or 1
    0.5
    """
    own = features.double()[lists.column]
    sure = lists.probability == 1
    total = []
    for chosen in (sure, ~sure):
        vectors = torch.zeros(len(lists.size), own.shape[1], dtype=torch.float64)
        vectors.index_add_(0, lists.row[chosen], own[chosen])
        squares = torch.zeros_like(lists.size).index_add_(0, lists.row[chosen], own[chosen].square().sum(1))
        total.append((vectors, (vectors.square().sum(1) - squares) / 2))
    (fixed, inside), (loose, among) = total
    drawn, tied = lists.drawn.double(), lists.tied.double()
    pair = drawn * (drawn - 1) / (tied * (tied - 1)).clamp(min=1)
    similar = inside + (fixed * loose).sum(1) * drawn / tied + among * pair
    pairs = lists.size * (lists.size - 1) / 2
    return torch.where(pairs > 0, 1 - similar / pairs, torch.nan)
