"""A comparison on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from factorlm.reporting.tables import cost, effects, quality, rich_table, slices
from factorlm.reporting.verdict import barred, verdict, warnings


def show(comparison: Mapping[str, Any], title: str) -> None:
    """Print warnings, tables and one sentence for each arm."""
    console, metric = Console(), comparison["metric"]
    seeds = f"{len(comparison['seeds'])} seed{'s' if len(comparison['seeds']) > 1 else ''}"
    against = f"{metric} against {comparison['baseline']}"
    bar = f"{barred(comparison)}; " if barred(comparison) else ""
    console.print()
    for warning in warnings(comparison):
        console.print(f"[bold red]{warning}", highlight=False)
    tables = {
        f"{title} ({comparison['users']} users, {seeds}, ± deviation over seeds)": quality(comparison, written=False),
        against: effects(comparison),
        f"{against} by slice (* q < 0.05)": slices(comparison),
        f"cost (* front of {metric} against training time)": cost(comparison),
    }
    for heading, table in tables.items():
        if len(table) > 1:
            console.print(f"[italic]{bar}{heading}", highlight=False)
            console.print(rich_table(table))
    for sentence in verdict(comparison):
        console.print(f"  {sentence}", highlight=False, soft_wrap=True)
