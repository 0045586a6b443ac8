"""Names of the columns of a per-user table: ``metric[/sampled candidates][/slice]``."""

from __future__ import annotations

import re

SLICED = re.compile("(.+?)/(warm|cold|head|tail|[^/=]+=.*)")
LOWER_IS_BETTER = ("logloss", "calibration")
SHARES = ("auc", "uauc_rows", "uauc_positives", "logloss", "precision", "recall", "f1", "accuracy")


def split_name(column: str) -> tuple[str, str | None]:
    """Metric and slice of a column.

    >>> split_name("ndcg@10/uni100/cold"), split_name("ndcg@10/domain=art/music"), split_name("ndcg@10/uni100")
    (('ndcg@10/uni100', 'cold'), ('ndcg@10', 'domain=art/music'), ('ndcg@10/uni100', None))
    """
    found = SLICED.fullmatch(column)
    return (found[1], found[2]) if found else (column, None)


def candidates(metric: str) -> str:
    """What a metric ranks: ``uni100`` and the like for sampled candidates, empty for all of them."""
    return metric.partition("/")[2]


def is_share(metric: str) -> bool:
    """Whether a user's number is a share of one metric of all rows (`factorlm.metrics.rows`), which says nothing alone.

    >>> is_share("auc"), is_share("recall"), is_share("recall@10"), is_share("uauc")
    (True, True, False, False)
    """
    return metric in SHARES


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return re.split("[@/]", metric)[0] in LOWER_IS_BETTER
