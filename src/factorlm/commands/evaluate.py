"""``factorlm evaluate``: a finished run again, from its config and checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from factorlm.commands.train import write_parquet
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.check import check_config
from factorlm.config.model import make_model
from factorlm.data.prepared import load_prepared, prepare
from factorlm.errors import UserError
from factorlm.evaluation.ranking import evaluate_ranking, means
from factorlm.metrics.ranking import RankingMetrics
from factorlm.runs.record import FILE, read_record, write_json
from factorlm.training.checkpoint import load_checkpoint


def evaluate(folder: Path, part: str, cache: str) -> dict[str, float]:
    """Evaluate a run's checkpoint on ``valid`` or ``test`` and return the metrics.

    The record counts evaluations of test; the run's tables are rewritten only if they are missing.

    Raises:
        UserError: the folder holds no finished run, or the part is not one that can be evaluated.
    """
    if part not in ("valid", "test"):
        raise UserError(f"part={part}: it must be valid or test")
    record = read_record(folder)
    if record is None or record["status"] != "done":
        state = "holds no run" if record is None else f"holds a run with status {record['status']}"
        raise UserError(f"run.dir={folder} {state}: name the folder of a finished run")
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    config.cache = cache
    check_config(config)
    torch.set_num_threads(config.threads)
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    saved = (record["protocol"]["data"], record["protocol"]["split"], record["tables"])
    if (prepared.data_fingerprint, prepared.split_fingerprint, prepared.tables_fingerprint) != saved:
        raise UserError(f"the data of {folder} have changed since it was trained: train it again")
    model = make_model(config, prepared)
    load_checkpoint(model, folder / "checkpoint")
    metrics: RankingMetrics = make(config.metrics)
    per_user, top = evaluate_ranking(model.eval(), prepared, part, metrics, config.eval_batch_size, config.top)
    if part == "test":
        write_json(folder / FILE, record | {"test_evaluations": record["test_evaluations"] + 1})
        for table, name in ((per_user, "per_user.parquet"), (top, "topk.parquet")):
            if not (folder / name).exists():
                write_parquet(table, folder / name)
    return means(per_user, part)


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
    for name, value in metrics.items():
        print(f"{name:24s} {value:.4f}")
