"""Metrics of one run or system, for a person."""

from __future__ import annotations

import re
from collections.abc import Mapping


def metric_lines(metrics: Mapping[str, float | None]) -> list[str]:
    """Metrics of whole rankings or rows as lines, a column for each cut-off; slices are left to the record.

    >>> print("\\n".join(metric_lines({"ndcg@5": 0.25, "ndcg@10": 0.5, "ndcg@10/cold": 0.1})))
                               @5      @10
    ndcg                   0.2500   0.5000
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        shown = re.fullmatch(r"(\w+)(?:@(\d+)((?:/uni\d+|/listed)?))?", name)
        if shown and value is not None:
            rows.setdefault(f"{shown[1]}{shown[3] or ''}", {})[shown[2] or ""] = value
    cuts = list(dict.fromkeys(cut for row in rows.values() for cut in row))
    lines = ["".join([" " * 20, *(f"{'@' + cut:>9s}" for cut in cuts)])] if cuts != [""] else []
    for name, row in rows.items():
        lines.append(f"{name:20s}" + "".join(_cell(row.get(cut)) for cut in cuts))
    return lines


def _cell(value: float | None) -> str:
    if value is None:
        return " " * 9
    return f"{value:9d}" if isinstance(value, int) else f"{value:9.4f}"
