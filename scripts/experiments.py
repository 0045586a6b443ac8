"""The index of experiments, from their committed records: python scripts/experiments.py > docs/experiments.md"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factorlm.comparison.study import Study, load_study
from factorlm.reporting.verdict import verdict

ROOT = Path(__file__).parents[1] / "experiments"
FOUND = ("better", "no worse", "equivalent", "the same", "not distinguishable", "worse")
HEAD = """# Experiments

Generated from the records under `experiments/` by `python scripts/experiments.py > docs/experiments.md`; a test holds
it current. Each study wrote its question, metric and smallest effect that matters before its runs. Numbers are
differences to the baseline on test; an arm is called better or worse where Holm's p is below 0.05. The reports have
intervals, all metrics and slices. `factorlm reproduce experiments/NAME` trains a study anew and holds each number
against the record ([how](runs.md#train-a-published-study-anew)).
"""
TAIL = """
Whether intervals and p-values hold is asked in [calibration](../experiments/calibration/README.md); the points that
were chosen for heads, encoders and baselines are those of `experiments/tuning/`.
"""


def page() -> str:
    """The page in Markdown."""
    studies = [load_study(ROOT, path.parent.name) for path in sorted(ROOT.glob("*/results"))]
    return HEAD + "".join(map(section, studies)) + TAIL


def section(study: Study) -> str:
    """What a study asked, and what its record says of each protocol."""
    paths = {protocol: study.folder / "results" / f"{protocol}.json" for protocol in study.protocols}
    records = {protocol: json.loads(path.read_text()) for protocol, path in paths.items() if path.exists()}
    runs = [run for record in records.values() for run in record["runs"]]
    commits = dict.fromkeys(run["git"]["commit"][:7] for run in runs)
    processors = dict.fromkeys(run["hardware"]["cpu"] for run in runs)
    folder = f"../experiments/{study.name}"
    return "\n".join(
        [
            f"\n## [{study.name}]({folder}/README.md)\n",
            f"{study.question}\n",
            f"{study.metric}, smallest effect that matters {study.smallest_effect:g}; {len(runs)} runs of commit "
            f"{', '.join(commits)} on {', '.join(processors)}; [report]({folder}/report.md).\n",
            *(finding(protocol, record) for protocol, record in records.items()),
            "",
        ]
    )


def finding(protocol: str, record: dict[str, Any]) -> str:
    """One line on a protocol: its arms by what was found of them."""
    arms: dict[str, list[str]] = {}
    compared = {name: arm["effect"] for name, arm in record["arms"].items() if arm["effect"]}
    for (name, effect), sentence in zip(compared.items(), verdict(record), strict=True):
        kind = next(kind for kind in FOUND if sentence.removeprefix(f"{name} is ").startswith(kind))
        arms.setdefault(kind, []).append(f"{name} {effect['difference']:+.4f}")
    seeds = f"{len(record['seeds'])} seed{'s' * (len(record['seeds']) > 1)}"
    baseline = record["arms"][record["baseline"]]["metrics"][f"test/{record['metric']}"]["mean"]
    found = "; ".join(f"*{kind}*: {', '.join(arms[kind])}" for kind in FOUND if kind in arms)
    return f"* **{protocol}** ({record['users']:,} users, {seeds}; {record['baseline']} {baseline:.4f}): {found}"


if __name__ == "__main__":
    print(page(), end="")
