"""What the page of a study says: sections of text, tables and charts, before any HTML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factorlm.comparison.columns import is_share
from factorlm.comparison.compare import FEWEST_USERS
from factorlm.comparison.runs import user_differences
from factorlm.reporting.charts import by_slice, curves, forest, over_users, pareto
from factorlm.reporting.report import how_to_read
from factorlm.reporting.sections import Page, Part, Section
from factorlm.reporting.sweep import sweep_section
from factorlm.reporting.tables import all_effects, cost, effects, quality
from factorlm.reporting.verdict import barred, summary, verdict, warnings
from factorlm.runs.record import read_record


def study_page(answer: Mapping[str, Any], folder: Path) -> Page:
    """The page of a study.

    Args:
        answer: of ``comparison.json``, with no protocols where there is only a sweep.
        folder: of the study in the store, with a folder of runs for each protocol and perhaps ``sweep.json``. Runs that
            are not there are looked for where ``answer`` says.
    """
    comparisons = answer["protocols"]
    sections = [_protocol(name, comparison, folder / name) for name, comparison in comparisons.items()]
    if (folder / "sweep.json").exists():
        sections.append(sweep_section(json.loads((folder / "sweep.json").read_text())))
    arms = [arm for comparison in comparisons.values() for arm in comparison["arms"]]
    charts = [chart for section in sections for part in section.parts for chart in part.charts]
    return Page(
        study=answer["study"],
        question=answer["question"],
        overrides=list(answer.get("overrides") or ()),
        sections=sections,
        arms=list(dict.fromkeys(arms)),
        slices=list(dict.fromkeys(name for chart in charts for name in chart.get("slices", ()))),
        how_to_read=how_to_read(comparisons.values()) if comparisons else [],
    )


def _protocol(name: str, comparison: Mapping[str, Any], folder: Path) -> Section:
    runs = {
        arm: [_place(Path(run), folder) for run in content.get("runs", ())]
        for arm, content in comparison["arms"].items()
    }
    found = {run: record for own in runs.values() for run in own if (record := _finished(run)) is not None}
    records = list(found.values()) or comparison.get("runs", [])
    complete = all(runs.values()) and all(run in found for own in runs.values() for run in own)
    bar = barred(comparison)
    parts = [
        Part(
            "Arms",
            charts=[forest(comparison)],
            tables={
                "Means over seeds ± deviation; * differs from the baseline": quality(comparison, written=True),
                f"{comparison['metric']} against {comparison['baseline']}": effects(comparison),
            },
            folded={"All metrics": all_effects(comparison, "effects")},
        ),
        _slices(comparison),
        _cost(comparison),
        _learning(comparison, runs, found) if complete else _without_runs("Learning curves"),
        _users(comparison, runs) if complete else _without_runs("Users who gain and lose"),
        Part("Excluded", notes=list(_excluded(comparison, records))),
        Part("Protocol", facts=_facts(comparison, records)),
    ]
    title = f"{name} ({bar})" if bar else name
    return Section(title, summary(comparison), parts, warnings(comparison), verdict(comparison))


def _place(run: Path, folder: Path) -> Path:
    """Where a run is: in its study's folder, which may have been moved, or where it was compared."""
    moved = folder / run.name
    return moved if moved.exists() else run


def _finished(run: Path) -> dict[str, Any] | None:
    """The record of a run that is done and still has its values of users."""
    record = read_record(run)
    whole = record is not None and record.get("status") == "done" and (run / "per_user.parquet").exists()
    return record if whole else None


def _without_runs(title: str) -> Part:
    note = (
        "This panel needs the run folders, and not all of them are in this store; factorlm compare trains the missing."
    )
    return Part(title, notes=[note])


def _slices(comparison: Mapping[str, Any]) -> Part:
    chart = by_slice(comparison)
    if chart is None:
        return Part("Slices", notes=["The runs of this comparison have no slices of users or items."])
    reach = [f"{name}: {low} to {high} training interactions" for name, (low, high) in comparison["activity"].items()]
    return Part("Slices", notes=reach, charts=[chart], folded={"All slices": all_effects(comparison, "slices")})


def _cost(comparison: Mapping[str, Any]) -> Part:
    chart = pareto(comparison)
    if chart is None:
        return Part("Cost", notes=["The cost of these arms is not known."])
    return Part("Cost", charts=[chart], tables={"Cost; * on the front": cost(comparison)})


def _learning(
    comparison: Mapping[str, Any], runs: Mapping[str, Sequence[Path]], found: Mapping[Path, Mapping[str, Any]]
) -> Part:
    histories = [
        (arm, f"{arm} seed {found[run]['seed']}", found[run].get("history") or ())
        for arm, own in runs.items()
        for run in own
    ]
    keys = {key for _, _, history in histories for row in history for key in row}
    selected = [str(record.get("protocol", {}).get("selection", "")).removeprefix("max ") for record in found.values()]
    key = next((key for key in (f"valid/{comparison['metric']}", *selected) if key in keys), "train/loss")
    chart = curves(histories, key)
    still = [arm for arm, own in runs.items() if not any(found[run].get("history") for run in own)]
    notes = [f"Trained without epochs: {', '.join(still)}."] if still else []
    return Part("Learning curves", notes=notes, charts=[chart] if chart else [])


def _users(comparison: Mapping[str, Any], runs: Mapping[str, Sequence[Path]]) -> Part:
    title, metric = "Users who gain and lose", comparison["metric"]
    if is_share(metric):
        note = f"{metric} is one number of all rows: the share that a user has in it says nothing of that user alone."
        return Part(title, notes=[note])
    differences = user_differences(runs, metric, force=bool(comparison["not_comparable"] or comparison["left_out"]))
    return Part(title, charts=[over_users(comparison, differences)])


def _excluded(comparison: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is not in the numbers, from users to rows."""
    yield f"{comparison['left_out'] or 'No'} users are left out for want of a value in every run."
    yield from (f"{metric} is dropped: {why}." for metric, why in comparison["dropped"].items())
    yield f"Slices of fewer than {FEWEST_USERS} users are not shown."
    if comparison["not_comparable"]:
        yield f"NOT COMPARABLE: {'; '.join(comparison['not_comparable'])}."
    dropped = (records[0].get("split") or {}).get("dropped", {}) if records else {}
    for part, reasons in dropped.items():
        counts = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in reasons.items() if count)
        if counts:
            yield f"Rows the split dropped ({part.replace('_', ' ')}): {counts}."


def _facts(comparison: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    facts = {
        "fingerprint": comparison["fingerprint"],
        "users": f"{comparison['users']:,}",
        "seeds": ", ".join(map(str, comparison["seeds"])),
        "primary metric": f"{comparison['metric']} on test",
        "baseline": comparison["baseline"],
        "smallest effect that matters": "none named" if comparison["margin"] is None else f"{comparison['margin']:g}",
        "resamples": f"{comparison['resamples']:,}",
    }
    if not records:
        return facts
    facts |= {key: _said(value) for key, value in (records[0].get("protocol") or {}).items()}
    for key in ("git", "versions", "hardware"):
        facts[key] = " | ".join(dict.fromkeys(_said(record[key]) for record in records if record.get(key)))
    return facts


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(one)}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
