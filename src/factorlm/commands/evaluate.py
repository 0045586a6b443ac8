"""``factorlm evaluate``: a finished run again, from its config and checkpoint, or a study on test rows kept apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from factorlm.baselines.base import Baseline
from factorlm.commands.execute import write_evaluation
from factorlm.commands.study import run_name, train_study
from factorlm.comparison.study import chosen, load_study
from factorlm.config.build import cache_dir, make_data
from factorlm.config.check import check_config
from factorlm.config.evaluator import make_evaluator
from factorlm.config.model import make_model, trained_model
from factorlm.config.schema import ModelConfig, TrainConfig
from factorlm.data.prepared import Prepared, load_prepared, prepare
from factorlm.data.reading import checksum, existing
from factorlm.data.tables import fingerprint, frame
from factorlm.errors import AuditError, UserError
from factorlm.models.prompted import Prompted
from factorlm.models.recommender import Recommender
from factorlm.reporting.metrics import metric_lines
from factorlm.runs.identity import digest
from factorlm.runs.record import FILE, read_record, write_json
from factorlm.runs.store import status
from factorlm.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class OpenRun:
    """A finished run: its config, record and data, and the model with the weights it kept."""

    config: DictConfig
    record: dict[str, Any]
    prepared: Prepared
    model: Recommender | Prompted | Baseline


def open_run(folder: Path, cache: str) -> OpenRun:
    """Open a finished run.

    Raises:
        UserError: the folder holds none, or its data have changed.
        AuditError: its record was edited.
    """
    config, record, prepared = _read(folder, cache)
    model = make_model(config, prepared)
    load_checkpoint(model, folder / "checkpoint")
    return OpenRun(config, record, prepared, model.eval())


def _read(folder: Path, cache: str) -> tuple[DictConfig, dict[str, Any], Prepared]:
    """Config, record and data of a finished run, without its model; see `open_run`."""
    record = read_record(folder)
    if record is None or record.get("status") != "done":
        state = "holds no run" if record is None else f"holds a run with status {status(folder, record)}"
        raise UserError(f"run.dir={folder} {state}: name the folder of a finished run")
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    known = ((TrainConfig, config), (ModelConfig, config.get("model", {})))
    if missing := [field.name for schema, part in known for field in fields(schema) if field.name not in part]:
        raise UserError(f"{folder} was trained by a version without {missing[0]}: train it again")
    config.cache = cache
    check_config(config)
    torch.set_num_threads(config.threads)
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    saved = (record["protocol"]["data"], record["protocol"]["split"], record["tables"])
    if (prepared.data_fingerprint, prepared.split_fingerprint, prepared.tables_fingerprint) != saved:
        if digest(record["protocol"]) != record["fingerprint"]:
            raise AuditError(f"{folder / FILE} was edited: its protocol does not hash to its fingerprint")
        raise UserError(f"the data of {folder} have changed since it was trained: train it again")
    return config, record, prepared


def evaluate(folder: Path, part: str, cache: str) -> dict[str, Any]:
    """Evaluate a run's checkpoint on ``valid`` or ``test`` and return the metrics.

    The record counts evaluations of test; the run's tables are rewritten only if they are missing.

    Raises:
        UserError: the folder holds no finished run, or the part is not one that can be evaluated.
    """
    if part not in ("valid", "test"):
        raise UserError(f"part={part}: it must be valid or test")
    run = open_run(folder, cache)
    evaluation = make_evaluator(run.config, run.prepared).evaluate(run.model, part)
    if part == "test":
        write_json(folder / FILE, run.record | {"test_evaluations": run.record["test_evaluations"] + 1})
        write_evaluation(evaluation, folder)
    return evaluation.named(part)


def evaluate_apart(folder: Path, cache: str, test: str) -> dict[str, Any]:
    """Score a run on test rows that it never saw, and return the metrics.

    ``test`` is a file like those of ``split=fixed``, or of examples for ``split=example_users``. Users and items
    unknown to training count as such. With ``split=fixed``, rows that neither the training file nor this one lists
    count as valid, which ``history=earlier`` lets a model read. The threshold of F1 is the one that the run found.
    Metrics and tables are kept in the run's folder, under ``apart`` and the checksum of the file.

    Raises:
        UserError: the run's split does not fix the training rows, or the file is not like the split's own.
    """
    config, record, known = _read(folder, cache)
    if "apart" in config.split:
        config.split.apart = test
    elif str(config.split["_target_"]).endswith("rules.Fixed") and config.split.train is not None:
        config.split.test, config.split.valid = test, None
    else:
        raise UserError(
            f"fixed.test is for split=fixed with a file split.train and for split=example_users, and {folder} has "
            "another split"
        )
    if "interactions" in config.dataset:
        files = config.dataset.interactions
        config.dataset.interactions = [*([files] if isinstance(files, str) else files), test]
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    if _training(prepared) != _training(known):
        raise UserError(f"fixed.test={test} changes the training rows of {folder}: it must list none of them")
    threshold = record["metrics"]["valid/threshold"] if config.task == "pointwise" else None
    evaluator = make_evaluator(config, prepared, threshold)
    evaluation = evaluator.evaluate(trained_model(config, prepared, folder), "test")
    target = folder / "apart" / checksum(test)[:16]
    target.mkdir(parents=True, exist_ok=True)
    write_evaluation(evaluation, target)
    write_json(target / "metrics.json", evaluation.named("test"))
    return evaluation.named("test")


def _training(prepared: Prepared) -> str:
    rows = prepared.split.rows["train"]
    return fingerprint(frame(prepared.tables.interactions)[rows])


def main(config: DictConfig) -> None:
    """Print the metrics; with ``json`` one document."""
    if config.study is not None:
        _study(config)
        return
    if config.run.dir is None:
        raise UserError("name a finished run (run.dir=PATH), or a study and its test rows (study=NAME fixed.test=PATH)")
    folder = Path(config.run.dir).expanduser()
    if config.fixed.test is not None:
        metrics = evaluate_apart(folder, config.cache, config.fixed.test)
    else:
        metrics = evaluate(folder, config.part, config.cache)
    if config.json:
        record = read_record(folder) or {}
        print(json.dumps({"run": str(folder), "fingerprint": record["fingerprint"], "metrics": metrics}))
        return
    print("\n".join(metric_lines({name.partition("/")[2]: value for name, value in metrics.items()})))


def _study(config: DictConfig) -> None:
    """Train what is missing of a study, score all of it on test rows kept apart, and print means over seeds."""
    if config.fixed.test is None:
        raise UserError(f"study={config.study} needs fixed.test=PATH, the test rows that its runs are to be scored on")
    study = load_study(Path(config.studies), config.study)
    protocols = chosen(list(study.protocols), config.protocols, "protocols")
    if len(protocols) != 1:
        raise UserError(f"study={study.name} has the protocols {', '.join(protocols)}: name one, protocols=[NAME]")
    arms = chosen(list(study.arms), config.arms, "arms")
    existing(config.fixed.test, ".json")
    folders = train_study(config, study, protocols, arms, study.seeds, [])
    means: dict[str, dict[str, float | None]] = {}
    for arm in arms:
        runs = []
        for seed in track(study.seeds, arm, console=Console(stderr=True), transient=True):
            folder = folders[run_name(protocols[0], arm, seed)]
            runs.append(evaluate_apart(folder, config.cache, config.fixed.test))
        columns = {name.removeprefix("test/"): [run[name] for run in runs] for name in runs[0]}
        means[arm] = {name: None if None in values else fmean(values) for name, values in columns.items()}
    if config.json:
        print(json.dumps({"study": study.name, "test": config.fixed.test, "seeds": study.seeds, "arms": means}))
        return
    names = [study.metric, *(name for name in ("auc", "uauc", "logloss", "ndcg@10") if name != study.metric)]
    table = Table(*["arm", *(name for name in names if name in next(iter(means.values())))], title=config.fixed.test)
    for arm, values in means.items():
        shown = [values[str(column.header)] for column in table.columns[1:]]
        table.add_row(arm, *("" if value is None else f"{value:.4f}" for value in shown))
    Console().print(table)
