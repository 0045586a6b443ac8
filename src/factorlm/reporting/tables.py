"""The A/B table: on the terminal through rich, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

SHOWN = ("ndcg@10", "recall@10", "precision@10", "f1@10", "hit@10", "mrr@10")


def quality(comparison: Mapping[str, Any], deviations: bool) -> list[list[str]]:
    """Header and one row for each arm: mean over seeds of its metrics.

    The primary metric shows its standard deviation over seeds too; with ``deviations`` all do.
    """
    names = _metrics(comparison)
    table = [["arm", *names]]
    for arm, content in comparison["arms"].items():
        cells = []
        for index, name in enumerate(names):
            value = content["metrics"][f"test/{name}"]
            shown = value["sd"] is not None and (deviations or index == 0)
            cells.append(f"{value['mean']:.4f}" + (f" ±{value['sd']:.4f}" if shown else ""))
        table.append([arm, *cells])
    return table


def effect_and_cost(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Header and one row for each arm: its difference to the baseline and what it cost.

    ``p`` is the permutation test, ``Holm`` the same adjusted for the arms of the table, ``up/down`` the share of users
    who are better or worse off, ``MiB`` the peak memory.
    """
    table = [["arm", "diff", "95 % interval", "p", "Holm", "up/down", "params", "train s", "MiB"]]
    for arm, content in comparison["arms"].items():
        effect, cost = content["effect"], content["cost"]
        cells = ["", "", "", "", ""]
        if effect is not None:
            interval = f"{_short(effect['low'])} {_short(effect['high'])}"
            share = f"{effect['better']:.0%}/{effect['worse']:.0%}"
            p_values = [f"{effect[key]:.4f}".removeprefix("0") for key in ("p_value", "p_holm")]
            cells = [_short(effect["difference"]), interval, *p_values, share]
        cells += [f"{cost['trainable_parameters']:,}", f"{cost['train_seconds']:.1f}", f"{cost['peak_memory_mb']:,}"]
        table.append([arm, *cells])
    return table


def _short(value: float) -> str:
    return f"{value:+.4f}".replace("0.", ".", 1)


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
    """One sentence for each arm: better or worse if the interval excludes 0 and p after Holm is below 0.05."""
    sentences = []
    for name, arm in comparison["arms"].items():
        effect = arm["effect"]
        if effect is None:
            continue
        size = f"{effect['difference']:+.4f} [{effect['low']:+.4f}, {effect['high']:+.4f}] {comparison['metric']}"
        found = "not distinguishable from"
        if effect["p_holm"] < 0.05 and effect["low"] > 0:
            found = "better than"
        elif effect["p_holm"] < 0.05 and effect["high"] < 0:
            found = "worse than"
        note = ""
        if found[0] in "bw" and smallest_effect is not None and abs(effect["difference"]) < smallest_effect:
            note = f", below the smallest effect that matters ({smallest_effect:g})"
        sentences.append(f"{name} is {found} {comparison['baseline']}: {size}{note}")
    return sentences
