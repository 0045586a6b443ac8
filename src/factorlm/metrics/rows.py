"""Pointwise metrics: scores of single rows against labels 0 and 1.

Besides its value, each row-level metric gives every user a share: numbers whose mean over users is the metric exactly,
and whose variance is that of the metric when users are drawn anew. For a ratio M = sum a / sum b they are
``M + U (a_u - M b_u) / sum b`` (the infinitesimal jackknife); for AUC they come from its placement values (N. A.
Obuchowski, Nonparametric Analysis of Clustered ROC Curve Data, Biometrics 53(2), 1997). So arms are compared on any of
them user by user, like on a ranking metric.

Shapes: n rows, U users. Labels are 0 or 1, probabilities lie in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

VERSIONS = {
    "auc": 1, "uauc": 1, "uauc_rows": 1, "uauc_positives": 1, "logloss": 1, "calibration": 1,
    "precision": 1, "recall": 1, "f1": 1, "accuracy": 1,
}  # fmt: skip
EPSILON = torch.finfo(torch.float64).eps


def shares(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Users' shares [U] of the ratio of two sums over users.

    >>> shares(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))  # 4 / 4
    tensor([0.5000, 1.5000])
    """
    ratio = numerator.sum() / denominator.sum()
    return ratio + len(numerator) * (numerator - ratio * denominator) / denominator.sum()


def by_user(values: Tensor, users: Tensor, num_users: int) -> Tensor:
    """Sum of row values for each user [U]."""
    return torch.zeros(num_users, dtype=torch.float64).index_add_(0, users, values.double())


def placements(labels: Tensor, scores: Tensor, users: Tensor, num_users: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each row the rows of the other class, of its own user, that it is ordered right against; ties count half.

    Returns:
        ``placed`` [n], and each user's ``positives`` and ``negatives`` [U].
    """
    labels = labels.bool()
    level = scores.unique(return_inverse=True)[1]
    key, group = (users * (int(level.max()) + 1 if len(level) else 1) + level).unique(return_inverse=True)
    user = torch.zeros_like(key).scatter_(0, group, users)
    first = torch.searchsorted(user, user)
    positive, negative = (by_user(chosen, group, len(key)) for chosen in (labels, ~labels))
    positives, negatives = (by_user(count, user, num_users) for count in (positive, negative))
    below = negative.cumsum(0) - negative
    below = below - below[first]
    at_or_below = positive.cumsum(0)
    at_or_below = at_or_below - (at_or_below - positive)[first]
    above = positives[user] - at_or_below
    placed = torch.where(labels, (below + negative / 2)[group], (above + positive / 2)[group])
    return placed, positives, negatives


def user_auc(labels: Tensor, scores: Tensor, users: Tensor, num_users: int) -> Tensor:
    """AUC of each user [U]: share of its pairs of a positive and a negative row in the right order, ties half.

    NaN for a user whose rows have one class. Their mean is ``uauc``; weighted by rows or by positives it is
    ``uauc_rows`` or ``uauc_positives``.

    >>> users, labels = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 0, 0, 1, 1])
    >>> user_auc(labels, torch.tensor([0.5, 0.4, 0.5, 0.1, 0.2]), users, 2)  # (1 + 1/2) / 2 pairs; one class
    tensor([0.7500,    nan], dtype=torch.float64)
    """
    placed, positives, negatives = placements(labels, scores, users, num_users)
    return by_user(placed * labels, users, num_users) / (positives * negatives)


def auc(labels: Tensor, scores: Tensor) -> Tensor:
    """Share of all pairs of a positive and a negative row in the right order, ties half; NaN for one class.

    >>> auc(torch.tensor([1, 0, 1, 0]), torch.tensor([0.9, 0.8, 0.3, 0.3])).item()  # (2 + 1/2) / 4 pairs
    0.625
    """
    return user_auc(labels, scores, torch.zeros_like(labels, dtype=torch.int64), 1)[0]


def auc_shares(labels: Tensor, scores: Tensor, users: Tensor, num_users: int) -> Tensor:
    """Users' shares [U] of the AUC over all rows.

    >>> labels, scores = torch.tensor([1, 0, 1, 0]), torch.tensor([0.9, 0.8, 0.3, 0.3])
    >>> auc_shares(labels, scores, torch.tensor([0, 0, 1, 1]), 2).mean().item()
    0.625
    """
    placed, positives, negatives = placements(labels, scores, torch.zeros_like(users), 1)
    value = (placed * labels).sum() / (positives * negatives)
    own, other = torch.where(labels.bool(), positives, negatives), torch.where(labels.bool(), negatives, positives)
    pull = (placed / other - value) / own
    return value + num_users * by_user(pull, users, num_users)


def logloss(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Negative log likelihood of each row [n], in nats; probabilities are kept 2e-16 away from 0 and 1.

    >>> logloss(torch.tensor([1, 0]), torch.tensor([0.5, 0.75])).exp()  # 1 / 0.5 and 1 / 0.25
    tensor([2., 4.], dtype=torch.float64)
    """
    safe = probabilities.double().clamp(EPSILON, 1 - EPSILON)
    return -torch.where(labels.bool(), safe, 1 - safe).log()


def calibration(labels: Tensor, probabilities: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error: mean distance of a bin's share of positives from its mean probability.

    Bins are equally wide and weigh as many rows as they hold. C. Guo et al., On Calibration of Modern Neural Networks,
    ICML 2017.

    >>> calibration(torch.tensor([1, 1, 0, 0]), torch.tensor([0.75, 0.75, 0.75, 0.25], dtype=torch.float64)).item()
    0.125
    """
    probabilities = probabilities.double()
    bin_ = (probabilities * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_, labels.double() - probabilities)
    return gap.abs().sum() / len(labels)


def best_threshold(labels: Tensor, probabilities: Tensor) -> float:
    """The probability from which calling a row positive gives the best F1; to be chosen on validation.

    >>> round(best_threshold(torch.tensor([1, 0, 1, 0]), torch.tensor([0.9, 0.8, 0.6, 0.2])), 6)  # 2 right of 3 called
    0.6
    """
    levels, group = probabilities.unique(return_inverse=True)
    positive = by_user(labels, group, len(levels)).flip(0).cumsum(0)
    called = by_user(torch.ones_like(labels), group, len(levels)).flip(0).cumsum(0)
    return float(levels.flip(0)[(2 * positive / (called + labels.sum())).argmax()])


def at_threshold(labels: Tensor, probabilities: Tensor, threshold: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Precision, recall, F1 and accuracy of calling rows positive from a threshold on.

    Each is a ratio of two sums over rows, given as numerator and denominator of each row [n].

    >>> ratios = at_threshold(torch.tensor([1, 0, 1, 0]), torch.tensor([0.9, 0.8, 0.6, 0.2]), 0.7)
    >>> {name: (a.sum() / b.sum()).item() for name, (a, b) in ratios.items()}
    {'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'accuracy': 0.5}
    """
    positive, called = labels.double(), (probabilities >= threshold).double()
    right = positive * called
    return {
        "precision": (right, called),
        "recall": (right, positive),
        "f1": (2 * right, called + positive),
        "accuracy": ((positive == called).double(), torch.ones_like(positive)),
    }


@dataclass(frozen=True)
class RowMetrics:
    """All pointwise metrics of n rows.

    Attributes:
        values: each metric over all rows.
        users: [U] that occur, ascending.
        shares: for each metric but ``calibration`` the users' values [U], whose mean is the metric. Those of ``uauc``
            and its kin are NaN for users whose rows have one class: they are dropped.
        threshold: from which probability rows were called positive.
    """

    values: dict[str, float]
    users: Tensor
    shares: dict[str, Tensor]
    threshold: float


def row_metrics(
    users: Tensor, labels: Tensor, scores: Tensor, *, probabilities: bool, threshold: float | None
) -> RowMetrics:
    """Evaluate rows; their order does not matter, to the last bit.

    Args:
        users, labels, scores: [n].
        probabilities: whether the scores are probabilities; else they are logits.
        threshold: from which probability a row is called positive; None: that of the best F1 on these rows.

    Raises:
        ValueError: a score is NaN or infinite, or no probability where it should be one.

    >>> users, labels = torch.tensor([7, 7, 9, 9]), torch.tensor([1, 0, 1, 0])
    >>> found = row_metrics(users, labels, torch.tensor([2.0, -2.0, 0.0, 1.0]), probabilities=False, threshold=0.5)
    >>> found.values["auc"], found.values["uauc"], found.users, found.shares["uauc"]
    (0.75, 0.5, tensor([7, 9]), tensor([1., 0.], dtype=torch.float64))
    """
    if not scores.isfinite().all():
        raise ValueError("scores contain NaN or infinity: the model has diverged")
    if probabilities and len(scores) and (scores.min() < 0 or scores.max() > 1):
        raise ValueError("scores lie outside [0, 1]: they are no probabilities")
    order = labels.argsort(stable=True)
    for key in (scores, users):
        order = order[key[order].argsort(stable=True)]
    people, index = users[order].unique(return_inverse=True)
    labels, scores, size = labels[order].long(), scores[order].double(), len(people)
    probability = scores if probabilities else scores.sigmoid()
    threshold = best_threshold(labels, probability) if threshold is None else threshold

    def total(values: Tensor) -> Tensor:
        return by_user(values, index, size)

    own = user_auc(labels, scores, index, size)
    used = ~own.isnan()
    weights = {"rows": total(torch.ones_like(labels)), "positives": total(labels)}
    found = {"auc": auc_shares(labels, scores, index, size), "uauc": own}
    for name, weight in weights.items():
        found[f"uauc_{name}"] = torch.full_like(own, torch.nan)
        found[f"uauc_{name}"][used] = shares((weight * own)[used], weight[used])
    found["logloss"] = shares(total(logloss(labels, probability)), weights["rows"])
    for name, (above, below) in at_threshold(labels, probability, threshold).items():
        found[name] = shares(total(above), total(below))
    values = {name: float(value.nanmean()) for name, value in found.items()}
    values |= {"auc": float(auc(labels, scores)), "calibration": float(calibration(labels, probability))}
    return RowMetrics({name: values[name] for name in VERSIONS}, people, found, threshold)
