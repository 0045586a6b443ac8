"""What a comparison found, in one sentence for each arm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factorlm.comparison.columns import lower_is_better
from factorlm.reporting.tables import LEVEL

ENOUGH_USERS = 300


def verdict(comparison: Mapping[str, Any]) -> list[str]:
    """One sentence for each arm but the baseline; p-values are adjusted after Holm for the arms.

    An arm is better or worse if p is below 0.05. If not, it is equivalent or at least no worse if the tests against the
    margin say so, and else not distinguishable.
    """
    sentences = []
    for name, arm in comparison["arms"].items():
        if effect := arm["effect"]:
            size = f"{effect['difference']:+.4f} [{effect['low']:+.4f}, {effect['high']:+.4f}] {comparison['metric']}"
            sentences.append(f"{name} is {''.join(_found(effect, comparison))}: {size}")
    return sentences


def summary(comparison: Mapping[str, Any]) -> str:
    """All verdicts in one sentence, without numbers: ``side and text are better than id; lora is worse than id.``"""
    alike: dict[str, list[str]] = {}
    for name, arm in comparison["arms"].items():
        if arm["effect"]:
            alike.setdefault(_found(arm["effect"], comparison)[0], []).append(name)
    said = []
    for finding, arms in alike.items():
        *first, last = arms
        said.append(f"{', '.join(first)} and {last} are {finding}" if first else f"{last} is {finding}")
    return "; ".join(said) + "."


def _found(effect: Mapping[str, Any], comparison: Mapping[str, Any]) -> tuple[str, str]:
    """What an effect shows, and a remark on its size or on what could have been seen."""
    baseline, margin = comparison["baseline"], comparison["margin"]
    if effect["difference"] == effect["standard_error"] == 0:
        return f"the same as {baseline} for every user", ""
    if effect["p_holm"] < LEVEL:
        better = (effect["difference"] > 0) != lower_is_better(comparison["metric"])
        small = margin is not None and abs(effect["difference"]) < margin
        remark = f", by less than the smallest effect that matters ({margin:g})" if small else ""
        return f"{'better' if better else 'worse'} than {baseline}", remark
    if margin is not None and effect["p_equivalent_holm"] < LEVEL:
        return f"equivalent to {baseline} within ±{margin:g}", ""
    if margin is not None and effect["p_not_worse_holm"] < LEVEL:
        return f"no worse than {baseline} by more than {margin:g}", ""
    seen = f"; this comparison finds effects of {effect['detectable_holm']:.4f} with probability 0.8"
    return f"not distinguishable from {baseline}", seen


def barred(comparison: Mapping[str, Any]) -> str:
    """What stands in the title of every table of runs that differ in their protocol: which parts do; else nothing."""
    parts = [difference.partition(" ")[0] for difference in comparison.get("not_comparable") or ()]
    return f"NOT COMPARABLE: other {', '.join(dict.fromkeys(parts))}" if parts else ""


def warnings(comparison: Mapping[str, Any]) -> list[str]:
    """What a reader must know before any number."""
    found = []
    if comparison.get("not_comparable"):
        found.append(f"NOT COMPARABLE: {'; '.join(comparison['not_comparable'])}")
    if comparison["left_out"]:
        found.append(f"{comparison['left_out']} users are left out, who are not in every table")
    found += [f"{metric} is dropped: {why}" for metric, why in comparison["dropped"].items()]
    if len(comparison["seeds"]) == 1:
        found.append("one run of each arm: intervals and p-values hold for these runs, and say nothing of other seeds")
        if comparison["users"] < ENOUGH_USERS:
            found.append(
                f"fewer than {ENOUGH_USERS} users: with one seed and skewed values small p-values are too small"
            )
    if len(comparison["seeds"]) == 2:
        found.append(
            "two seeds: they tell little of how seeds vary, so intervals are wide; three or more find much more"
        )
    return found
