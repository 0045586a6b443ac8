"""The A/B table: on the terminal through rich, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

SHOWN = ("ndcg@10", "recall@10", "precision@10", "f1@10", "hit@10", "mrr@10")


def header(comparison: Mapping[str, Any]) -> list[str]:
    """Column names of the A/B table."""
    return ["arm", *_metrics(comparison), f"Δ {comparison['metric']}", "95 % interval", "p (Holm)", "users better/worse",
            "parameters", "train s", "peak MiB"]  # fmt: skip


def rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the A/B table, a row for each arm."""
    return [[name, *_cells(comparison, arm)] for name, arm in comparison["arms"].items()]


def _metrics(comparison: Mapping[str, Any]) -> list[str]:
    have = next(iter(comparison["arms"].values()))["metrics"]
    names = [comparison["metric"], *(name for name in SHOWN if name != comparison["metric"])]
    return [name for name in names if f"test/{name}" in have]


def _cells(comparison: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    values = [arm["metrics"][f"test/{name}"] for name in _metrics(comparison)]
    cells = [f"{value['mean']:.4f} ±{value['sd']:.4f}" for value in values[:1]] + [f"{v['mean']:.4f}" for v in values[1:]]
    effect = arm["effect"]
    if effect is None:
        cells += ["baseline", "", "", ""]
    else:
        cells += [f"{effect['difference']:+.4f}", f"[{effect['low']:+.4f}, {effect['high']:+.4f}]",
                  f"{effect['p_holm']:.4f}", f"{effect['better']:.0%}/{effect['worse']:.0%}"]  # fmt: skip
    cost = arm["cost"]
    return [*cells, f"{cost['trainable_parameters']:,}", f"{cost['train_seconds']:.1f}", f"{cost['peak_memory_mb']:,}"]


def rich_table(comparison: Mapping[str, Any], title: str) -> Table:
    """The A/B table for a terminal."""
    users, seeds = comparison["users"], len(comparison["seeds"])
    caption = f"{users} users x {seeds} seeds, paired; ± is the standard deviation over seeds; {comparison['fingerprint']}"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for index, name in enumerate(header(comparison)):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for cells in rows(comparison):
        table.add_row(*cells)
    return table


def markdown(comparison: Mapping[str, Any]) -> str:
    """The A/B table in Markdown."""
    names = header(comparison)
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows(comparison)]
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
