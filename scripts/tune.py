"""Train every point of sweeps, keep the best by validation, and write down what was tried.

    .venv/bin/python scripts/tune.py ml100k ctr fm deepfm          # sweeps of conf/sweep, two runs at a time
    .venv/bin/python scripts/tune.py ml1m ctr fm --keep optimizer.lr=ml100k   # a key as it was chosen elsewhere

Writes conf/experiment/<dataset>/<setting>/<sweep>.yaml and experiments/tuning/<dataset>-<setting>.json. Finished runs
are reused, so an interrupted call continues when it is repeated. Test metrics are not read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import yaml
from omegaconf import OmegaConf

from factorlm.commands.pool import Job, train_all
from factorlm.config.compose import compose_config
from factorlm.runs.record import read_record

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "ctr": ["task=pointwise", "split=random", "fields=movielens"],
    "user_time": ["split=user_time", "history=earlier"],
    "leave_one_out": ["split=leave_one_out", "history=earlier", "dataset.min_value=null"],
}


def points(sweep: str) -> list[list[str]]:
    """The overrides of each point of a sweep."""
    grid = yaml.safe_load((ROOT / "conf" / "sweep" / f"{sweep}.yaml").read_text())["hydra"]["sweeper"]["params"]
    columns = [[f"{key}={value}" for value in str(values).split(",")] for key, values in grid.items()]
    return [list(point) for point in itertools.product(*columns)]


def kept(point: list[str], sweep: str, setting: str, keep: list[str]) -> bool:
    """Whether a point has the values that were chosen on other datasets for the keys to keep."""
    for key, _, dataset in (entry.partition("=") for entry in keep):
        tuned = json.loads((ROOT / "experiments" / "tuning" / f"{dataset}-{setting}.json").read_text())[sweep]
        wanted = [override for override in tuned["chosen"] if override.startswith(f"{key}=")]
        if any(override not in point for override in wanted):
            return False
    return True


def write_experiment(path: Path, overrides: list[str], sweep: str, line: str) -> None:
    """A config file of the chosen point."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "conf" / "sweep" / f"{sweep}.yaml").read_text())
    content.pop("hydra")
    defaults = content.pop("defaults", [])
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    fixed = [override.split("=") for override in overrides if override.split("=")[0] in groups]
    groups_chosen = {key: value for entry in defaults for key, value in entry.items()}
    groups_chosen |= {f"override /{key}": value for key, value in fixed}  # the command line won in the run, too
    defaults = [{key: value} for key, value in groups_chosen.items()]
    values = OmegaConf.from_dotlist([override for override in overrides if override.split("=")[0] not in groups])
    merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(content), values))
    path.parent.mkdir(parents=True, exist_ok=True)
    body = yaml.safe_dump({"defaults": defaults} | merged, sort_keys=False)  # type: ignore[operator]
    path.write_text(f"# @package _global_\n# {line}\n{body}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="of conf/dataset")
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("sweeps", nargs="+", help="of conf/sweep")
    parser.add_argument(
        "--keep", nargs="*", default=[], help="KEY=DATASET: the value chosen there, in place of the grid's"
    )
    parser.add_argument("--with", dest="more", nargs="*", default=[], help="further overrides of every run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    arguments = parser.parse_args()
    base = [f"dataset={arguments.dataset}", *SETTINGS[arguments.setting], *arguments.more]
    study = f"tuning/{arguments.dataset}-{arguments.setting}"
    trials = {
        sweep: [point for point in points(sweep) if kept(point, sweep, arguments.setting, arguments.keep)]
        for sweep in arguments.sweeps
    }
    jobs = [
        Job(f"{sweep} {' '.join(point)}", OmegaConf.to_container(compose_config("train", [
            *base, f"sweep={sweep}", *point, "tracking=none", f"study={study}",
        ])))
        for sweep, tried in trials.items() for point in tried
    ]  # fmt: skip
    folders = train_all(jobs, arguments.jobs, lambda name, state: print(f"{name}: {state}", flush=True))
    path = ROOT / "experiments" / "tuning" / f"{arguments.dataset}-{arguments.setting}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(path.read_text()) if path.exists() else {}
    for sweep, tried in trials.items():
        records = [read_record(folders[f"{sweep} {' '.join(point)}"]) or {} for point in tried]
        metric = records[0]["protocol"]["selection"].removeprefix("max ")
        values = [record["metrics"][metric] for record in records]
        best = max(range(len(tried)), key=values.__getitem__)
        found[sweep] = {
            "metric": metric,
            "chosen": tried[best],
            "shared": base,
            "commit": records[best]["git"]["commit"] if "git" in records[best] else None,
            "trials": [
                {"point": point, "value": round(value, 6), "seconds": record["seconds"]["total"]}
                for point, value, record in zip(tried, values, records, strict=True)
            ],
        }
        line = f"The best of {len(tried)} points by {metric} ({values[best]:.4f}): {path.relative_to(ROOT)}"
        where = ROOT / "conf" / "experiment" / arguments.dataset / arguments.setting / f"{sweep}.yaml"
        write_experiment(where, [*base, *tried[best]], sweep, line)
        print(f"{sweep}: {line}", flush=True)
    path.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
