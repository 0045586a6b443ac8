"""The charts of a comparison, as data for plotly; ``page/charts.js`` draws them and knows the colours of the theme.

A chart is a dict: ``title``; ``says``, the same in words for those who do not see it; ``data`` and ``layout`` as plotly
takes them; perhaps ``slices``, the names of the rows that every trace has a value of. A trace with ``meta`` belongs to
that arm, and is left out where the reader leaves out the arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from factorlm.reporting.figure import COLOURS
from factorlm.reporting.tables import LEVEL

Chart = dict[str, Any]
Floats = npt.NDArray[np.float64]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star")
ZERO = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 1}}
LEAST_SECONDS = 0.01  # on a logarithmic axis


def look(place: int) -> dict[str, Any]:
    """Colour and symbol of the arm at a place; both are needed to tell more than six arms apart."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "symbol": SYMBOLS[(place + place // len(COLOURS)) % len(SYMBOLS)],
        "size": 9,
    }


def forest(comparison: Mapping[str, Any]) -> Chart:
    """Each arm's difference to the baseline on the primary metric, with its 95 % interval."""
    traces = [
        {"y": [arm], **_intervals([content["effect"]]), **_of(arm, place), "showlegend": False}
        for place, (arm, content) in enumerate(comparison["arms"].items())
        if content["effect"] is not None
    ]
    margin = comparison["margin"]
    band = {"type": "rect", "x0": -margin, "x1": margin, "y0": 0, "y1": 1, "yref": "paper"} if margin else None
    says = "; ".join(f"{trace['meta']} {_spoken(comparison['arms'][trace['meta']]['effect'])}" for trace in traces)
    return {
        "title": f"Difference to {comparison['baseline']} in {comparison['metric']}, with 95 % intervals"
        + (f"; shaded: too small to matter (±{margin:g})" if band else ""),
        "says": says,
        "data": traces,
        "layout": {
            "height": 100 + 32 * len(traces),
            "xaxis": {"title": {"text": f"{comparison['metric']} minus that of {comparison['baseline']}"}},
            "yaxis": {"type": "category", "automargin": True},
            "shapes": [ZERO, band] if band else [ZERO],
        },
    }


def by_slice(comparison: Mapping[str, Any]) -> Chart | None:
    """Each arm's difference over the slices of users and items; None where there are no slices."""
    arms = {arm: content["slices"] for arm, content in comparison["arms"].items() if content["slices"]}
    if not arms:
        return None
    places = list(comparison["arms"])
    names = list(next(iter(arms.values())))
    found = [
        f"{arm}, {name}: {slices[name]['difference']:+.4f}"
        for arm, slices in arms.items()
        for name in names
        if slices[name]["q_value"] < LEVEL
    ]
    return {
        "title": f"Difference to {comparison['baseline']} in {comparison['metric']} by slice, with 95 % intervals",
        "says": f"slices {', '.join(names)}; with q below {LEVEL}: {'; '.join(found) or 'none'}",
        "slices": names,
        "data": [
            {**_intervals([slices[name] for name in names]), **_of(arm, places.index(arm))}
            for arm, slices in arms.items()
        ],
        "layout": {
            "xaxis": {"title": {"text": f"{comparison['metric']} minus that of {comparison['baseline']}"}},
            "yaxis": {"automargin": True},
            "shapes": [ZERO],
        },
    }


def pareto(comparison: Mapping[str, Any]) -> Chart | None:
    """The primary metric of each arm over its training time; None where costs are not known."""
    metric = comparison["metric"]
    arms = {arm: content for arm, content in comparison["arms"].items() if "cost" in content}
    if not arms:
        return None
    quality = {arm: content["metrics"][f"test/{metric}"] for arm, content in arms.items()}
    seconds = {arm: max(content["cost"]["train_seconds"], LEAST_SECONDS) for arm, content in arms.items()}
    front = sorted((arm for arm in arms if arms[arm]["pareto"]), key=lambda arm: seconds[arm])
    line = {
        "x": [seconds[arm] for arm in front],
        "y": [quality[arm]["mean"] for arm in front],
        "mode": "lines",
        "line": {"dash": "dot", "shape": "hv", "width": 1.5, "color": "#777777"},
        "name": "front",
        "hoverinfo": "skip",
    }
    points = [
        {
            "x": [seconds[arm]],
            "y": [quality[arm]["mean"]],
            "error_y": {"type": "data", "array": [quality[arm]["sd"] or 0], "thickness": 1.5},
            **_of(arm, place),
            "hovertemplate": f"{metric} %{{y:.4f}}, {arms[arm]['cost']['train_seconds']:.1f} s",
        }
        for place, arm in enumerate(arms)
    ]
    return {
        "title": f"{metric} against training time, ± deviation over seeds; dotted: the front, which no arm beats",
        "says": f"on the front: {', '.join(front)}",
        "data": [line, *points],
        "layout": {
            "xaxis": {"type": "log", "title": {"text": f"seconds of training (logarithmic, {LEAST_SECONDS} for less)"}},
            "yaxis": {"title": {"text": metric}, "automargin": True},
        },
    }


def over_users(comparison: Mapping[str, Any], differences: Mapping[str, Floats]) -> Chart:
    """The users' differences to the baseline from the worst to the best, for each arm [U], in 101 quantiles."""
    shares = np.linspace(0, 1, 101)
    places = list(comparison["arms"])
    traces, says = [], []
    for arm, difference_U in differences.items():
        up, down = float((difference_U > 1e-9).mean()), float((difference_U < -1e-9).mean())
        traces.append(
            {
                "x": [round(100 * share) for share in shares],
                "y": [round(float(value), 5) for value in np.quantile(difference_U, shares)],
                **_of(arm, places.index(arm)),
                "mode": "lines",
                "line": {"color": look(places.index(arm))["color"], "width": 2},
                "name": f"{arm}: {up:.0%} up, {down:.0%} down",
            }
        )
        says.append(f"{arm}: {up:.0%} of users gain, {down:.0%} lose")
    return {
        "title": f"Users from those who lose most to those who gain most: {comparison['metric']} minus that of "
        f"{comparison['baseline']}, mean over seeds",
        "says": "; ".join(says),
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "users (%)"}},
            "yaxis": {"title": {"text": "difference"}, "automargin": True, "zeroline": True},
        },
    }


def curves(histories: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]], key: str) -> Chart | None:
    """A value by epoch.

    Args:
        histories: arm, name and history of each run.
        key: of the histories' values; runs without it are left out.

    Returns:
        None where no run has it.
    """
    traces: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    for arm, name, history in histories:
        place = places.setdefault(arm, len(places))
        points = [row for row in history if row.get(key) is not None]
        if points:
            first = all(trace["meta"] != arm for trace in traces)
            traces.append(
                {
                    "x": [row["epoch"] for row in points],
                    "y": [round(float(row[key]), 6) for row in points],
                    **_of(arm, place),
                    "mode": "lines+markers",
                    "line": {"color": look(place)["color"], "width": 1.5},
                    "cliponaxis": False,
                    "legendgroup": arm,
                    "showlegend": first,
                    "hovertemplate": f"{name}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
                }
            )
    if not traces:
        return None
    last = [f"{trace['meta']} ends at {trace['y'][-1]:.4f} after epoch {trace['x'][-1]}" for trace in traces]
    ticks = max(1, max(trace["x"][-1] for trace in traces) // 6)
    return {
        "title": f"{key} by epoch, a line for each run",
        "says": "; ".join(last),
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero", "dtick": ticks},
            "yaxis": {"title": {"text": key}, "automargin": True},
        },
    }


def _of(arm: str, place: int) -> dict[str, Any]:
    """What every trace of an arm has."""
    return {"type": "scatter", "mode": "markers", "name": arm, "meta": arm, "marker": look(place)}


def _intervals(effects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "x": [effect["difference"] for effect in effects],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [effect["high"] - effect["difference"] for effect in effects],
            "arrayminus": [effect["difference"] - effect["low"] for effect in effects],
            "thickness": 2,
        },
        "hovertemplate": "%{x:+.4f} [%{customdata[0]:+.4f}, %{customdata[1]:+.4f}]",
        "customdata": [[effect["low"], effect["high"]] for effect in effects],
    }


def _spoken(effect: Mapping[str, Any]) -> str:
    return f"{effect['difference']:+.4f} from {effect['low']:+.4f} to {effect['high']:+.4f}"
