"""The figure of a study: effects over the number of training interactions that an item has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SLICE = "train_interactions="
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito: told apart by all
MARKERS = "osD^vP"  # and in print without colour


def bins(comparison: Mapping[str, Any]) -> list[str]:
    """The bins of training interactions that a comparison has slices of, as in ``1-4``, fewest first."""
    found = next(content["slices"] for content in comparison["arms"].values() if content["effect"] is not None)
    return [name.removeprefix(SLICE) for name in found if name.startswith(SLICE)]


def draw_bins(comparisons: Mapping[str, Mapping[str, Any]], path: Path) -> bool:
    """Draw each arm's difference to the baseline and its 95 % interval over the bins, a panel for each protocol.

    Args:
        comparisons: of `compare_runs`, by protocol; those without bins get no panel.
        path: of the SVG file.

    Returns:
        Whether there was anything to draw.
    """
    shown = {protocol: comparison for protocol, comparison in comparisons.items() if bins(comparison)}
    if not shown:
        return False
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    widths = [len(bins(comparison)) + 1 for comparison in shown.values()]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name, "font.size": 9}):
        figure = Figure(figsize=(0.9 + 0.62 * sum(widths), 3.2), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False, width_ratios=widths)[0]
        for axes, (protocol, comparison) in zip(panels, shown.items(), strict=True):
            names = bins(comparison)
            arms = {arm: own["slices"] for arm, own in comparison["arms"].items() if own["effect"] is not None}
            axes.axhline(0, color="black", linewidth=0.8)
            for place, (arm, slices) in enumerate(arms.items()):
                effects = [slices[f"{SLICE}{name}"] for name in names]
                middle = [effect["difference"] for effect in effects]
                below = [effect["difference"] - effect["low"] for effect in effects]
                above = [effect["high"] - effect["difference"] for effect in effects]
                shift = 0.16 * (place - (len(arms) - 1) / 2)
                axes.errorbar(
                    [number + shift for number in range(len(names))], middle, yerr=[below, above],
                    color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], capsize=3, markersize=5,
                    linewidth=1.2, label=arm,
                )  # fmt: skip
            axes.set_title(protocol, fontsize=9)
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.6, len(names) - 0.4)
            axes.spines[["top", "right"]].set_visible(False)
        first = next(iter(shown.values()))
        panels[0].set_ylabel(f"{first['metric']} minus that of {first['baseline']}")
        figure.supxlabel("training interactions of an item", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
    return True
