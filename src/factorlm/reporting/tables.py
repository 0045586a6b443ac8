"""The A/B table: on the terminal through rich, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

SHOWN = ("ndcg@10", "recall@10", "precision@10", "f1@10", "hit@10", "mrr@10")


def quality(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Header and one row for each arm: its metrics."""
    names = _metrics(comparison)
    table = [["arm", *names]]
    for arm, content in comparison["arms"].items():
        values = [content["metrics"][f"test/{name}"] for name in names]
        first = f"{values[0]['mean']:.4f} ±{values[0]['sd']:.4f}"
        table.append([arm, first, *(f"{value['mean']:.4f}" for value in values[1:])])
    return table


def effect_and_cost(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Header and one row for each arm: its difference to the baseline and what it cost.

    ``up/down`` is the share of users who are better or worse off, ``MiB`` the peak memory.
    """
    table = [["arm", "diff", "95 % interval", "p Holm", "up/down", "params", "train s", "MiB"]]
    for arm, content in comparison["arms"].items():
        effect, cost = content["effect"], content["cost"]
        cells = ["baseline", "", "", ""]
        if effect is not None:
            interval = f"{effect['low']:+.4f} {effect['high']:+.4f}"
            share = f"{effect['better']:.0%}/{effect['worse']:.0%}"
            cells = [f"{effect['difference']:+.4f}", interval, f"{effect['p_holm']:.4f}", share]
        cells += [f"{cost['trainable_parameters']:,}", f"{cost['train_seconds']:.1f}", f"{cost['peak_memory_mb']:,}"]
        table.append([arm, *cells])
    return table


def _metrics(comparison: Mapping[str, Any]) -> list[str]:
    have = next(iter(comparison["arms"].values()))["metrics"]
    names = [comparison["metric"], *(name for name in SHOWN if name != comparison["metric"])]
    return [name for name in names if f"test/{name}" in have]


def rich_table(content: list[list[str]], title: str) -> Table:
    """A table for a terminal of 80 columns, from a header and rows."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for index, name in enumerate(content[0]):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for cells in content[1:]:
        table.add_row(*cells)
    return table


def markdown(content: list[list[str]]) -> str:
    """A Markdown table from a header and rows."""
    lines = ["| " + " | ".join(content[0]) + " |", "|---|" + "---:|" * (len(content[0]) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in content[1:]]
    return "\n".join(lines)


def verdict(comparison: Mapping[str, Any], smallest_effect: float | None) -> list[str]:
    """One sentence for each arm: what the interval says of it, and whether that matters."""
    sentences = []
    for name, arm in comparison["arms"].items():
        effect = arm["effect"]
        if effect is None:
            continue
        size = f"{effect['difference']:+.4f} [{effect['low']:+.4f}, {effect['high']:+.4f}] {comparison['metric']}"
        if effect["low"] > 0:
            found = "better than"
        elif effect["high"] < 0:
            found = "worse than"
        else:
            found = "not distinguishable from"
        small = smallest_effect is not None and found != "not distinguishable from"
        note = ""
        if small and smallest_effect is not None and abs(effect["difference"]) < smallest_effect:
            note = f", below the smallest effect that matters ({smallest_effect:g})"
        sentences.append(f"{name} is {found} {comparison['baseline']}: {size}{note}")
    return sentences
