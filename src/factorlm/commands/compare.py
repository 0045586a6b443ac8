"""``factorlm compare``: a study's arms and seeds, or finished runs, compared user by user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from factorlm.commands.pool import Job, train_all
from factorlm.comparison.runs import by_arm, compare_runs
from factorlm.comparison.study import Study, chosen, load_study, train_overrides
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.check import check_config
from factorlm.config.compose import compose_config
from factorlm.data.prepared import prepare
from factorlm.errors import UserError
from factorlm.reporting.report import runs_report, study_report, study_results
from factorlm.reporting.tables import cost, effects, quality
from factorlm.reporting.terminal import show
from factorlm.runs.identity import digest
from factorlm.runs.record import read_record, write_json


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
    study = load_study(Path(config.studies) / config.study)
    protocols = chosen(list(study.protocols), config.protocols, "protocols")
    arms = chosen(list(study.arms), config.arms, "arms")
    seeds = list(config.seeds or study.seeds)
    folders = _train(config, study, protocols, arms, seeds)
    metric = config.metric or study.metric
    reference = study.baseline if study.baseline in arms else arms[0]
    ordered = [reference, *(arm for arm in arms if arm != reference)]
    comparisons = {
        protocol: compare_runs(
            {arm: [folders[_name(protocol, arm, seed)] for seed in seeds] for arm in ordered},
            metric,
            config.resamples,
            study.smallest_effect,
            config.force,
        )
        for protocol in protocols
    }
    root = Path(config.run.root).expanduser() / study.name
    answer = {"study": study.name, "question": study.question, "protocols": comparisons}
    known = (root / "comparison.json").exists() and json.loads((root / "comparison.json").read_text()) == answer
    write_json(root / "comparison.json", answer)
    report = root / "report.md"
    report.write_text(study_report(study, comparisons, list(config.overrides)))
    if config.publish:
        target = Path(config.studies) / study.name
        for protocol in protocols:
            records = [folders[_name(protocol, arm, seed)] for arm in arms for seed in seeds]
            (target / "results").mkdir(exist_ok=True)
            write_json(
                target / "results" / f"{protocol}.json",
                study_results(comparisons[protocol], map(_record, records)),
            )
        shutil.copy(report, target / "report.md")
    if config.tracking is not None and not known:
        _track(config, study, root, comparisons)
    if config.json:
        print(json.dumps({"study": study.name, "protocols": comparisons, "report": str(report)}))
        return
    Console().print(f"[bold]{study.question}[/bold]")
    for protocol, comparison in comparisons.items():
        show(comparison, f"{study.name}: {protocol}")
    print(f"\ncomparison {root / 'comparison.json'}\nreport {report}")


def _record(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None
    return record


def _name(protocol: str, arm: str, seed: int) -> str:
    return f"{protocol}/{arm} seed {seed}"


def _train(
    config: DictConfig, study: Study, protocols: list[str], arms: list[str], seeds: list[int]
) -> dict[str, Path]:
    """Fetch what the runs need, then train those that are missing."""
    jobs = []
    for protocol in protocols:
        composed = {arm: _compose(config, study, protocol, arm) for arm in _with_starts(study, arms)}
        for seed in seeds:
            for arm, content in composed.items():
                after = study.arms[arm].init_from
                start = _name(protocol, after, seed) if after else None
                jobs.append(Job(_name(protocol, arm, seed), content | {"seed": seed}, start))
    _fetch(jobs)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(study.name, total=len(jobs))
        running: list[str] = []

        def report(name: str, event: str) -> None:
            if event == "started":
                running.append(name)
            else:
                running.remove(name)
                progress.advance(task)
                if event != "done":
                    progress.console.print(f"[red]{name}: {event}", highlight=False)
            progress.update(task, description=", ".join(running) or study.name)

        return train_all(jobs, config.jobs, report)


def _compose(config: DictConfig, study: Study, protocol: str, arm: str) -> dict[str, Any]:
    sources = HydraConfig.get().runtime.config_sources
    search = [source.path for source in sources if source.provider == "command-line"]
    composed = compose_config("train", [*train_overrides(study, protocol, arm), *config.overrides], search)
    for shared in ("tracking", "cache", "threads", "plugins"):
        composed[shared] = config[shared]
    composed.run.root = config.run.root
    check_config(composed)
    content = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _with_starts(study: Study, arms: list[str]) -> list[str]:
    """The arms and those they start from; chains come first, so that no long one is left alone at the end."""
    needed = set(arms)
    for name in reversed(list(study.arms)):
        start = study.arms[name].init_from
        if name in needed and start:
            needed.add(start)
    starts = {study.arms[name].init_from for name in needed}
    in_chain = {name for name in needed if name in starts or study.arms[name].init_from}
    return sorted((name for name in study.arms if name in needed), key=lambda name: name not in in_chain)


def _fetch(jobs: list[Job]) -> None:
    """Download, convert and split once, visibly, before processes start that would each wait for it."""
    seen = set()
    for job in jobs:
        config = OmegaConf.create(job.config)
        key = json.dumps([job.config[name] for name in ("dataset", "split", "backbone")], sort_keys=True)
        if key not in seen:
            seen.add(key)
            prepare(*make_data(config), cache_dir(config))
            if config.backbone is not None:
                make(config.backbone).fetch(cache_dir(config))


def _compare_folders(config: DictConfig, folders: list[Path]) -> None:
    if len(folders) < 2:
        raise UserError("runs: name two or more run folders, the baseline first")
    grouped = by_arm(folders)
    selection = str(_record(folders[0]).get("protocol", {}).get("selection", "max valid/ndcg@10"))
    metric = config.metric or selection.removeprefix("max valid/")
    comparison = compare_runs(grouped, metric, config.resamples, force=config.force)
    keys = [_record(folder)["key"] for own in grouped.values() for folder in own]
    target = Path(config.run.root).expanduser() / "comparisons" / digest([*keys, comparison["metric"]])
    target.mkdir(parents=True, exist_ok=True)
    report = target / "report.md"
    write_json(target / "comparison.json", comparison)
    report.write_text(runs_report(comparison))
    if config.json:
        print(json.dumps({**comparison, "report": str(report)}))
        return
    show(comparison, "runs")
    print(f"\ncomparison {target / 'comparison.json'}\nreport {report}")


def _track(config: DictConfig, study: Study, root: Path, comparisons: Mapping[str, Any]) -> None:
    """Mirror the tables to W&B."""
    from factorlm.tracking.wandb import finish, log_table

    folder = root / "comparison"
    settings = {"study": study.name, "question": study.question, "metric": study.metric}
    logger = make(config.tracking).start(folder, name=study.name, group=study.name, job_type="compare", config=settings)
    try:
        for protocol, comparison in comparisons.items():
            for name, table in (
                ("quality", quality(comparison, deviations=True)),
                ("effect", effects(comparison)),
                ("cost", cost(comparison)),
            ):
                log_table(logger, f"{protocol}/{name}", table[0], table[1:])
    finally:
        finish(logger, 0)
