"""The section of a sweep, from its ``sweep.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from factorlm.reporting.charts import Chart
from factorlm.reporting.figure import COLOURS
from factorlm.reporting.sections import Part, Section
from factorlm.reporting.tables import Cells

FEWEST_TRIALS = 4  # to say which parameters matter
WIDE = 100  # largest over smallest value of a parameter that is shown on a logarithmic axis


def sweep_section(sweep: Mapping[str, Any]) -> Section:
    """Which parameters matter, all trials, what failed, and how it was searched."""
    states = [trial["state"] for trial in sweep["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    shares, lines = importance(sweep), parallel(sweep)
    unknown = [] if shares else ["Too few trials, or too much alike, to tell which parameters matter."]
    failed = [f"Trial {trial['number']}: {trial['error']}" for trial in sweep["trials"] if trial["error"]]
    search = {"sampler": sweep["sampler"], "seed": str(sweep["seed"]), "directions": ", ".join(sweep["directions"])}
    parts = [
        Part("Parameters", charts=[shares] if shares else [], notes=unknown),
        Part("Trials", charts=[lines] if lines else [], tables={"Trials, the best first": trials_table(sweep)}),
        Part("Failed", notes=failed or ["None."]),
        Part("Search", facts=search | {key: str(spec) for key, spec in sweep["space"].items()}),
    ]
    best = f"; {lines['says']}" if lines else ""
    return Section("Sweep", f"{len(states)} trials: {counts}{best}.", parts)


def completed(sweep: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials that have a value, the best first; with two objectives after the first."""
    sign = -1 if sweep["directions"][0] == "maximize" else 1
    done = [trial for trial in sweep["trials"] if trial["state"] == "complete"]
    return sorted(done, key=lambda trial: sign * trial["values"][0])


def trials_table(sweep: Mapping[str, Any]) -> Cells:
    """One row for each trial: the completed ones, the best first, then the others with their state."""
    keys = list(sweep["space"])
    done = completed(sweep)
    others = [trial for trial in sweep["trials"] if trial["state"] != "complete"]
    table = [["trial", sweep["metric"], *keys, "seconds", "state"]]
    for trial in (*done, *others):
        value = f"{trial['values'][0]:.4f}" if trial["values"] else "–"
        seconds = "–" if trial["seconds"] is None else f"{trial['seconds']:.1f}"
        params = [_text(trial["params"].get(key, "–")) for key in keys]
        table.append([str(trial["number"]), value, *params, seconds, trial["state"]])
    return table


def importance(sweep: Mapping[str, Any]) -> Chart | None:
    """How much each parameter decides whether a trial is among the better ones; None with too few trials.

    PED-ANOVA: S. Watanabe, A. Bansal, F. Hutter, PED-ANOVA: Efficiently quantifying hyperparameter importance in
    arbitrary subspaces, IJCAI 2023.
    """
    trials = completed(sweep)
    values = {key: [trial["params"][key] for trial in trials] for key in sweep["space"]}
    varied = {key: own for key, own in values.items() if len({_text(value) for value in own}) > 1}
    if len(trials) < FEWEST_TRIALS or not varied or len({trial["values"][0] for trial in trials}) == 1:
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, Any] = {key: _distribution(own) for key, own in varied.items()}
    study = optuna.create_study(direction=sweep["directions"][0])
    for trial in trials:
        params = {key: _choice(trial["params"][key], distributions[key]) for key in varied}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=trial["values"][0]))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    shares = {key: share for key, share in found.items() if np.isfinite(share)}
    return {
        "title": f"Share of each parameter in what makes trials good (PED-ANOVA over {len(trials)} trials)",
        "says": "; ".join(f"{key} {share:.0%}" for key, share in shares.items()),
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": [round(share, 4) for share in shares.values()],
                "y": list(shares),
                "marker": {"color": COLOURS[0]},
                "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
            }
        ],
        "layout": {
            "height": 110 + 30 * len(shares),
            "xaxis": {"tickformat": ".0%", "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed", "automargin": True},
        },
    }


def parallel(sweep: Mapping[str, Any]) -> Chart | None:
    """Each completed trial as a line over its parameters to its value; None without trials."""
    trials = completed(sweep)
    if not trials:
        return None
    axes = {key: [trial["params"][key] for trial in trials] for key in sweep["space"]}
    axes |= {sweep["metric"]: [trial["values"][0] for trial in trials]}
    placed = {key: _places(values) for key, values in axes.items()}
    best = max(1, len(trials) // 4)
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": list(axes),
            "y": [round(float(places[rank]), 4) for places in placed.values()],
            "line": {"color": COLOURS[0 if rank < best else 4], "width": 2.5 if rank < best else 1},
            "opacity": 1 if rank < best else 0.55,
            "name": f"the best {best}" if rank < best else "other trials",
            "legendgroup": str(rank < best),
            "showlegend": rank in (0, best),
            "text": [f"{key}={_text(values[rank])}" for key, values in axes.items()],
            "hovertemplate": f"trial {trials[rank]['number']}: %{{text}}<extra></extra>",
        }
        for rank in reversed(range(len(trials)))
    ]
    ends = [
        {"x": key, "y": y, "text": _text(text), "showarrow": False, "yshift": shift, "font": {"size": 11}}
        for key, values in axes.items()
        for y, text, shift in ((0, *_ends(values)[:1], -14), (1, *_ends(values)[1:], 14))
    ]
    point = ", ".join(f"{key}={_text(value)}" for key, value in trials[0]["params"].items())
    return {
        "title": f"Completed trials across their parameters, with the ends of each; strong: the best {best}",
        "says": f"the best trial is {trials[0]['number']} with {trials[0]['values'][0]:.4f}: {point}",
        "data": traces,
        "layout": {
            "xaxis": {"type": "category", "automargin": True},
            "yaxis": {"range": [-0.15, 1.15], "showticklabels": False, "showgrid": False, "zeroline": False},
            "annotations": ends,
        },
    }


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _logarithmic(values: Sequence[Any]) -> bool:
    return _numbers(values) and min(values) > 0 and max(values) / min(values) >= WIDE


def _places(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Where values lie on an axis from 0 to 1."""
    if _numbers(values):
        numbers = np.log(np.array(values, dtype=float)) if _logarithmic(values) else np.array(values, dtype=float)
    else:
        names = sorted({_text(value) for value in values})
        numbers = np.array([float(names.index(_text(value))) for value in values])
    spread = np.ptp(numbers)
    return (numbers - numbers.min()) / spread if spread > 0 else np.full(len(numbers), 0.5)


def _ends(values: Sequence[Any]) -> tuple[str, str]:
    """What stands at the lower and the upper end of an axis."""
    if _numbers(values):
        return _text(min(values)), _text(max(values))
    names = sorted({_text(value) for value in values})
    return names[0], names[-1]


def _distribution(values: Sequence[Any]) -> Any:
    """Of a parameter for Optuna, from the values it took."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if _numbers(values) and len(set(values)) > FEWEST_TRIALS:
        return FloatDistribution(min(values), max(values), log=_logarithmic(values))
    return CategoricalDistribution(sorted({_text(value) for value in values}))


def _choice(value: Any, distribution: Any) -> Any:
    return _text(value) if hasattr(distribution, "choices") else float(value)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
