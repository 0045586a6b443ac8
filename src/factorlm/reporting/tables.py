"""The tables of a comparison: on the terminal through rich, and as Markdown. A table is a header and rows of cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from factorlm.comparison.columns import candidates

SHOWN = ("ndcg@10", "recall@10", "precision@10", "f1@10", "hit@10", "mrr@10", "auc", "uauc", "logloss")
LEVEL = 0.05  # of significance
Cells = list[list[str]]


def quality(comparison: Mapping[str, Any], written: bool) -> Cells:
    """One row for each arm: mean over seeds of its metrics.

    The primary metric shows its standard deviation over seeds too. ``written``, for reports: all metrics do, and *
    marks what differs from the baseline: p after Holm below 0.05 of the primary metric, q below 0.05 of others.
    """
    names = _metrics(comparison)
    table = [["arm", *names]]
    for arm, content in comparison["arms"].items():
        cells = []
        for index, name in enumerate(names):
            value = content["metrics"][f"test/{name}"]
            shown = value["sd"] is not None and (written or index == 0)
            mark = "*" if written and _differs(content, name, index == 0) else ""
            cells.append(f"{value['mean']:.4f}{mark}" + (f" ±{value['sd']:.4f}" if shown else ""))
        table.append([arm, *cells])
    return table


def _differs(arm: Mapping[str, Any], metric: str, primary: bool) -> bool:
    if primary:
        return arm["effect"] is not None and arm["effect"]["p_holm"] < LEVEL
    return metric in arm["effects"] and arm["effects"][metric]["q_value"] < LEVEL


def _metrics(comparison: Mapping[str, Any]) -> list[str]:
    """The primary metric and the usual ones; those on sampled candidates only beside their like."""
    have = set.intersection(*(set(arm["metrics"]) for arm in comparison["arms"].values()))
    metric = comparison["metric"]
    sampled = f"/{candidates(metric)}" if candidates(metric) else ""
    return [
        metric,
        *(name for name in (f"{usual}{sampled}" for usual in SHOWN) if name != metric and f"test/{name}" in have),
    ]


def effects(comparison: Mapping[str, Any]) -> Cells:
    """One row for each arm but the baseline: its difference on the primary metric.

    ``Holm`` is p adjusted for the arms of the table, ``d`` the effect size, ``up/down`` the share of users whose value
    rose or fell (– where users have shares only), ``sees`` the smallest effect that the comparison finds with
    probability 0.8.
    """
    table = [["arm", "diff", "95 % interval", "p", "Holm", "d", "up/down", "sees"]]
    for arm, content in comparison["arms"].items():
        effect = content["effect"]
        if effect is not None:
            moved = [effect[key] for key in ("wins", "losses")]
            share = "–" if None in moved else "/".join(f"{count / effect['users']:.0%}" for count in moved)
            p_values = [_probability(effect[key]) for key in ("p_value", "p_holm")]
            seen = _short(effect["detectable"]).removeprefix("+")
            size = _short(effect["effect_size"], 2)
            table.append([arm, _short(effect["difference"]), _interval(effect), *p_values, size, share, seen])
    return table


def slices(comparison: Mapping[str, Any]) -> Cells:
    """One row for each slice of the users or items, a column for each arm: difference, * where q is below 0.05."""
    arms = {arm: content["slices"] for arm, content in comparison["arms"].items() if content["effect"] is not None}
    table = [["slice", "users", *arms]]
    for name, first in next(iter(arms.values())).items():
        found = [content[name] for content in arms.values()]
        cells = [_short(effect["difference"]) + ("*" if effect["q_value"] < LEVEL else " ") for effect in found]
        reach = comparison["activity"].get(name)
        table.append([name + (f" ({reach[0]}-{reach[1]})" if reach else ""), str(first["users"]), *cells])
    return table


def cost(comparison: Mapping[str, Any]) -> Cells:
    """One row for each arm: what it cost; * on the front of the primary metric against training time.

    No rows where the cost is not known, as of lists from other systems.
    """
    table = [["arm", "params", "train s", "MiB", "ms/user", "front"]]
    for arm, content in comparison["arms"].items():
        if "cost" not in content:
            continue
        spent = content["cost"]
        serving = "" if spent["ms_per_user"] is None else f"{spent['ms_per_user']:.2f}"
        cells = [f"{spent['trainable_parameters']:,}", f"{spent['train_seconds']:.1f}", f"{spent['peak_memory_mb']:,}"]
        table.append([arm, *cells, serving, "*" if content["pareto"] else ""])
    return table


def all_effects(comparison: Mapping[str, Any], part: str) -> Cells:
    """One row for each arm and metric (``part`` = effects) or slice (slices); q is for all effects together."""
    label = {"effects": "metric", "slices": "slice"}[part]
    table = [["arm", label, "users", "diff", "95 % interval", "p", "q", "d", "win/loss/tie", "sees"]]
    for arm, content in comparison["arms"].items():
        if content["effect"] is None:
            continue
        primary = {comparison["metric"]: content["effect"]} if part == "effects" else {}
        for name, effect in (primary | content[part]).items():
            moved = [effect[key] for key in ("wins", "losses", "ties")]
            users = "–" if None in moved else "/".join(map(str, moved))
            p_values = [_probability(effect[key]) for key in ("p_value", "q_value")]
            size, seen = _short(effect["effect_size"], 2), _short(effect["detectable"]).removeprefix("+")
            cells = [
                str(effect["users"]),
                _short(effect["difference"]),
                _interval(effect),
                *p_values,
                size,
                users,
                seen,
            ]
            table.append([arm, name, *cells])
    return table


def _short(value: float, digits: int = 4) -> str:
    text = f"{value:+.{digits}f}"
    return text[0] + text[2:] if text[1:3] == "0." else text


def _interval(effect: Mapping[str, Any]) -> str:
    return f"{_short(effect['low'])} {_short(effect['high'])}"


def _probability(value: float) -> str:
    return "<.0001" if value < 0.0001 else f"{value:.4f}".removeprefix("0")


def rich_table(content: Cells) -> Table:
    """A table for a terminal of 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for index, name in enumerate(content[0]):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for cells in content[1:]:
        table.add_row(*cells)
    return table


def markdown(content: Cells) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(content[0]) + " |", "|---|" + "---:|" * (len(content[0]) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in content[1:]]
    return "\n".join(lines)
