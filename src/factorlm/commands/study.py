"""The runs of a study: which there are, and how those that are missing are trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from factorlm.commands.pool import Job, train_all
from factorlm.comparison.study import Study, train_overrides
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.check import check_config
from factorlm.config.compose import compose_config
from factorlm.data.prepared import prepare


def run_name(protocol: str, arm: str, seed: int) -> str:
    """How a run of a study is called."""
    return f"{protocol}/{arm} seed {seed}"


def train_study(
    config: DictConfig, study: Study, protocols: list[str], arms: list[str], seeds: list[int], overrides: list[str]
) -> dict[str, Path]:
    """Fetch what the runs need and train those that are missing; the folders of all, by `run_name`.

    Args:
        config: of a command that trains, with its shell, ``jobs`` and ``tracking``.
        study: with the protocols, arms and seeds that are wanted of it.
        protocols, arms, seeds: the wanted ones.
        overrides: for every run.
    """
    jobs = []
    for protocol in protocols:
        composed = {arm: _compose(config, study, protocol, arm, overrides) for arm in _with_starts(study, arms)}
        for seed in seeds:
            for arm, content in composed.items():
                after = {
                    key: run_name(protocol, of, seed)
                    if isinstance(of, str)
                    else [run_name(protocol, a, seed) for a in of]
                    for key, of in study.arms[arm].runs.items()
                }
                jobs.append(Job(run_name(protocol, arm, seed), content | {"seed": seed}, after))
    fetch([OmegaConf.create(job.config) for job in jobs])
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


def _compose(config: DictConfig, study: Study, protocol: str, arm: str, overrides: list[str]) -> dict[str, Any]:
    sources = HydraConfig.get().runtime.config_sources
    search = [source.path for source in sources if source.provider == "command-line"]
    composed = compose_config("train", [*train_overrides(study, protocol, arm), *overrides], search)
    for shared in ("tracking", "cache", "threads", "plugins"):
        composed[shared] = config[shared]
    composed.run.root = config.run.root
    check_config(composed)
    content = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _with_starts(study: Study, arms: list[str]) -> list[str]:
    """The arms and those they need; chains come first, so that no long one is left alone at the end."""
    needed = set(arms)
    for name in reversed(list(study.arms)):
        if name in needed:
            needed.update(study.arms[name].after)
    starts = {start for name in needed for start in study.arms[name].after}
    in_chain = {name for name in needed if name in starts or study.arms[name].after}
    return sorted((name for name in study.arms if name in needed), key=lambda name: name not in in_chain)


def fetch(configs: Sequence[DictConfig]) -> None:
    """Download, convert and split once, visibly, before processes start that would each wait for it."""
    seen = set()
    for config in configs:
        content = OmegaConf.to_container(config, resolve=True)
        assert isinstance(content, dict)
        key = json.dumps([content[name] for name in ("dataset", "split", "backbone")], sort_keys=True)
        if key not in seen:
            seen.add(key)
            prepare(*make_data(config), cache_dir(config))
            if config.backbone is not None:
                make(config.backbone).fetch(cache_dir(config))
