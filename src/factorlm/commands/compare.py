"""``factorlm compare``: a study's arms and seeds, or finished runs, compared user by user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from factorlm.commands.study import run_name, train_study
from factorlm.comparison.runs import by_arm, compare_runs
from factorlm.comparison.study import Study, chosen, load_study
from factorlm.config.build import make
from factorlm.errors import UserError
from factorlm.reporting.report import study_results
from factorlm.reporting.study_files import StudyFiles, write_study
from factorlm.reporting.tables import cost, effects, quality
from factorlm.reporting.terminal import show
from factorlm.runs.identity import digest
from factorlm.runs.record import read_record, write_json
from factorlm.tracking.base import Mirror, Run


def main(config: DictConfig) -> None:
    """Run what is missing, compare, print the tables and name the report."""
    if (config.study is None) == (config.runs is None):
        raise UserError("name a study (study=NAME) or finished runs (runs=[FOLDER,FOLDER]), and not both")
    if config.jobs < 1 or config.resamples < 1:
        raise UserError(f"jobs={config.jobs}, resamples={config.resamples}: both must be 1 or more")
    if config.runs is not None:
        _compare_folders(config, [Path(folder).expanduser() for folder in config.runs])
        return
    partial = [key for key in ("arms", "seeds", "protocols", "overrides", "metric") if config[key]]
    if config.publish and partial:
        raise UserError(f"publish=true takes the whole study as it was written down, without {', '.join(partial)}")
    study = load_study(Path(config.studies), config.study)
    protocols = chosen(list(study.protocols), config.protocols, "protocols")
    arms = chosen(list(study.arms), config.arms, "arms")
    seeds = list(config.seeds or study.seeds)
    folders = train_study(config, study, protocols, arms, seeds, list(config.overrides))
    metric = config.metric or study.metric
    reference = study.baseline if study.baseline in arms else arms[0]
    ordered = [reference, *(arm for arm in arms if arm != reference)]
    comparisons = {
        protocol: compare_runs(
            {arm: [folders[run_name(protocol, arm, seed)] for seed in seeds] for arm in ordered},
            metric,
            config.resamples,
            study.smallest_effect,
            config.force,
        )
        for protocol in protocols
    }
    root = Path(config.run.root).expanduser() / study.name
    overrides = list(config.overrides)
    answer = {"study": study.name, "question": study.question, "overrides": overrides, "protocols": comparisons}
    known = (root / "comparison.json").exists() and json.loads((root / "comparison.json").read_text()) == answer
    write_json(root / "comparison.json", answer)
    files = write_study(answer, root)
    if config.publish:
        target = study.folder
        for protocol in protocols:
            records = [folders[run_name(protocol, arm, seed)] for arm in arms for seed in seeds]
            (target / "results").mkdir(exist_ok=True)
            write_json(
                target / "results" / f"{protocol}.json",
                study_results(comparisons[protocol], map(_record, records)),
            )
        for file in filter(None, (files.markdown, files.figure)):
            shutil.copy(file, target / file.name)
    if config.tracking is not None and not known:
        _track(config, study, root, comparisons)
    if config.json:
        print(json.dumps({"study": study.name, "protocols": comparisons, "report": str(files.markdown)}))
        return
    Console().print(f"[bold]{study.question}[/bold]")
    for protocol, comparison in comparisons.items():
        show(comparison, f"{study.name}: {protocol}")
    _print_files(root, files)


def _record(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None
    return record


def _compare_folders(config: DictConfig, folders: list[Path]) -> None:
    if len(folders) < 2:
        raise UserError("runs: name two or more run folders, the baseline first")
    grouped = by_arm(folders)
    selection = str(_record(folders[0]).get("protocol", {}).get("selection", "max valid/ndcg@10"))
    metric = config.metric or selection.removeprefix("max valid/")
    comparison = compare_runs(grouped, metric, config.resamples, force=config.force)
    keys = [_record(folder)["key"] for own in grouped.values() for folder in own]
    name = f"comparison-{digest([*keys, comparison['metric']])}"
    target = Path(config.run.root).expanduser() / name
    answer = {"study": name, "question": "", "protocols": {f"against {comparison['baseline']}": comparison}}
    target.mkdir(parents=True, exist_ok=True)
    write_json(target / "comparison.json", answer)
    files = write_study(answer, target)
    if config.json:
        print(json.dumps({**comparison, "report": str(files.markdown)}))
        return
    show(comparison, "runs")
    _print_files(target, files)


def _print_files(folder: Path, files: StudyFiles) -> None:
    print(f"\ncomparison {folder / 'comparison.json'}\nreport {files.markdown}\nreport {files.html}")


def _track(config: DictConfig, study: Study, root: Path, comparisons: Mapping[str, Any]) -> None:
    """Mirror the tables."""
    settings = {"study": study.name, "question": study.question, "metric": study.metric}
    run = Run(root / "comparison", study.name, study.name, job_type="compare", tags=[], config=settings)
    mirror: Mirror = make(config.tracking).start(run)
    code = 1
    try:
        for protocol, comparison in comparisons.items():
            for name, table in (
                ("quality", quality(comparison, written=True)),
                ("effect", effects(comparison)),
                ("cost", cost(comparison)),
            ):
                mirror.table(f"{protocol}/{name}", table[0], table[1:])
        code = 0
    finally:
        mirror.finish(code)
