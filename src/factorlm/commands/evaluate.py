"""``factorlm evaluate``: a finished run again, from its config and checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from factorlm.baselines.base import Baseline
from factorlm.commands.train import write_evaluation
from factorlm.config.build import cache_dir, make_data
from factorlm.config.check import check_config
from factorlm.config.evaluator import make_evaluator
from factorlm.config.model import make_model
from factorlm.config.schema import ModelConfig, TrainConfig
from factorlm.data.prepared import Prepared, load_prepared, prepare
from factorlm.errors import AuditError, UserError
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
    model: Recommender | Baseline


def open_run(folder: Path, cache: str) -> OpenRun:
    """Open a finished run.

    Raises:
        UserError: the folder holds none, or its data have changed.
        AuditError: its record was edited.
    """
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
    model = make_model(config, prepared)
    load_checkpoint(model, folder / "checkpoint")
    return OpenRun(config, record, prepared, model.eval())


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


def main(config: DictConfig) -> None:
    """Print the metrics; with ``json`` one document."""
    if config.run.dir is None:
        raise UserError("run.dir is missing: name the folder of a finished run, run.dir=PATH")
    folder = Path(config.run.dir).expanduser()
    metrics = evaluate(folder, config.part, config.cache)
    if config.json:
        record = read_record(folder) or {}
        print(json.dumps({"run": str(folder), "fingerprint": record["fingerprint"], "metrics": metrics}))
        return
    print("\n".join(metric_lines({name.partition("/")[2]: value for name, value in metrics.items()})))
