"""Train and evaluate a run in this process, and write into its folder."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import xxhash
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from factorlm.assets import write_atomically
from factorlm.backbones.adapter import adapter_names
from factorlm.backbones.prompting import scorer_in
from factorlm.baselines.base import Baseline
from factorlm.commands.mirror import mirror_results, start_mirror
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.evaluator import Evaluator, make_evaluator, selection_metric
from factorlm.config.model import make_model, used_rows
from factorlm.data.prepared import Prepared, load_prepared, prepare
from factorlm.errors import PrunedError, TerminatedError, UserError
from factorlm.evaluation.base import Evaluation
from factorlm.evaluation.histories import train_contexts
from factorlm.evaluation.ranking import RankingTask
from factorlm.models.prompted import Prompted
from factorlm.models.recommender import Recommender
from factorlm.parallel import divided
from factorlm.runs.identity import NAMING_RUNS, digest, protocol
from factorlm.runs.record import read_record
from factorlm.tracking.base import Mirror
from factorlm.training.checkpoint import learned_state, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback

# how a protocol names the items that a split lets be ranked
POOLS = {"train": "items of training", "all": "all items", "part": "items of the part"}
Note = Callable[..., None]  # takes what the record says


def starts(config: DictConfig) -> dict[str, list[Path]]:
    """Folders of the finished runs that this one needs, by key."""
    named = {key: OmegaConf.select(config, key) for key in NAMING_RUNS}
    return {
        key: [Path(folder) for folder in (found if isinstance(found, ListConfig) else [found])]
        for key, found in named.items()
        if found
    }


def processes_of(config: DictConfig) -> int:
    """How many train the run together; a baseline is fitted by one."""
    devices = config.trainer.devices
    if config.baseline is not None:
        return 1
    if isinstance(devices, int) and devices > 0:
        return devices
    raise UserError(f"trainer.devices={devices}: name how many, as in trainer.devices=2")


def execute(config: DictConfig, folder: Path, note: Note, started: float, progress: bool, rank: int = 0) -> None:
    """Train and evaluate, mirrored by the tracker of the first process of a run."""
    mirror = None if config.tracking is None or rank else start_mirror(config, folder)
    code = 1
    try:
        _run(config, folder, note, mirror, started, progress, rank)
        code = 0
    except KeyboardInterrupt:
        code = 130
        raise
    except TerminatedError:
        code = 143
        raise
    except PrunedError:
        code = 0
        raise
    finally:
        if mirror is not None:
            mirror.finish(code)


def _run(
    config: DictConfig, folder: Path, note: Note, mirror: Mirror | None, started: float, progress: bool, rank: int
) -> None:
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    import pytorch_lightning as lightning

    _silence_lightning()
    source, rule = make_data(config)
    prepared_folder, meta = prepare(source, rule, cache_dir(config))
    prepared = load_prepared(prepared_folder)
    evaluator = make_evaluator(config, prepared)
    parts = run_protocol(config, prepared, evaluator)
    for start_key, folders in starts(config).items():
        for start in folders:
            started_from = (read_record(start) or {})["protocol"]
            if (started_from["data"], started_from["split"]) != (parts["data"], parts["split"]):
                raise UserError(f"{start_key}={start} was trained on other rows: its split must be the same")
    note(protocol=parts, fingerprint=digest(parts), split=meta["split"], tables=prepared.tables_fingerprint)
    clock("prepare")
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model = make_model(config, prepared)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    note(parameters={"trainable": trainable, "frozen": frozen})
    clock("build")
    rows = used_rows(config, prepared)
    note(training_rows=len(rows))
    scorer = scorer_in(model)
    if scorer is not None:
        note(prompt=scorer.writer.version)
    if not isinstance(model, Baseline) and trainable:
        if config.init_from:
            adapter, names = _adapter_names(config, model), learned_state(model)
            parts_of = [
                [name for name in names if name.startswith(part) and name not in adapter]
                for part in ("prompt.", "scorer.vectors.")
            ]
            load_checkpoint(model, Path(config.init_from) / "checkpoint", new=[adapter, *parts_of])
        trained, earlier = _fit(config, folder, model, prepared, evaluator, rows, mirror, progress)
        if processes_of(config) > 1 and config.trainer.strategy == "fsdp":  # its layers are in pieces
            model = make_model(config, prepared)
            load_checkpoint(model, folder / "checkpoint")
    else:
        save_checkpoint(model, folder / "checkpoint")
        trained, earlier = {}, 0.0
    clock("train")
    seconds["train"] = round(seconds["train"] + earlier, 2)
    model.eval()
    valid = evaluator.evaluate(model, "valid")
    clock("validate")
    test = evaluator.evaluate(model, "test")
    if not rank:
        write_evaluation(test, folder)
    values = valid.named("valid") | test.named("test")
    clock("evaluate")
    seconds["total"] = round(time.perf_counter() - started + earlier, 2)
    if mirror is not None:
        made_from = {"data": parts["data"], "split": parts["split"], "tables": prepared.tables_fingerprint}
        summary = {**values, "fingerprint": digest(parts), "seconds": seconds, "parameters": trainable}
        mirror_results(mirror, folder, summary, made_from)
    ms_per_user = round(1000 * seconds["evaluate"] / len(test.per_user), 4)
    note(metrics=values, seconds=seconds, ms_per_user=ms_per_user, test_evaluations=1, **trained)


def run_protocol(config: DictConfig, prepared: Prepared, evaluator: Evaluator) -> dict[str, Any]:
    """The protocol of a run of this config on these data."""
    _, rule = make_data(config)
    added = evaluator.protocol()
    history = {} if config.history == "train" else {"history": config.history}
    return history | protocol(
        data=prepared.data_fingerprint,
        split=prepared.split_fingerprint,
        rows={part: len(users) for part, users in prepared.split.users.items()},
        candidates=f"{POOLS[rule.candidates]}: {added['candidates']}",
        exclusion=added["exclusion"],
        metrics=evaluator.definitions,
        selection=f"max {selection_metric(config)}",
    )


def _fit(
    config: DictConfig,
    folder: Path,
    model: Recommender | Prompted,
    prepared: Prepared,
    evaluator: Evaluator,
    rows: npt.NDArray[np.int64],
    mirror: Mirror | None,
    progress: bool,
) -> tuple[dict[str, Any], float]:
    """Train and keep the best weights; what the record says of it, and the seconds before an interruption."""
    from factorlm.training.fit import fit
    from factorlm.training.module import DivergedError, PointwiseModule, RankingModule, TaskBatches, TrainBatches

    split, task = prepared.split, evaluator.task("valid")
    items, labels = (torch.from_numpy(part["train"][rows]) for part in (split.items, split.labels))
    shared = make(config.objective), make(config.optimizer), make(config.metrics)
    module: RankingModule | PointwiseModule
    if isinstance(task, RankingTask):
        pool, counts = items.unique(return_counts=True)
        assert isinstance(model, Recommender)
        module = RankingModule(model, *shared, pool, counts, task, config.seed)
        columns: tuple[torch.Tensor, ...] = (items,)
    else:
        module, columns = PointwiseModule(model, *shared, task), (items, labels)
    contexts = train_contexts(prepared)
    if len(rows) < len(contexts):
        contexts = contexts[torch.from_numpy(rows)]
    by_user = model.shares_histories
    batches = TrainBatches(contexts, columns, config.batch_size, config.seed, by_user=by_user)
    before = _frozen_digests(model)
    adapted = {name: model.get_parameter(name) for name in _adapter_names(config, model)}
    adapter = {name: value.detach().clone() for name, value in adapted.items() if value.requires_grad}
    strategy = None
    if processes_of(config) > 1:
        from factorlm.training.strategies import make_strategy  # takes a second to import

        strategy = make_strategy(config.trainer.strategy, model)
    monitor = selection_metric(config)
    try:
        result = fit(
            module,
            batches,
            TaskBatches(task, config.eval_batch_size),
            make(config.trainer),
            monitor=monitor,
            patience=config.patience,
            folder=folder,
            save_every=config.save_every,
            log=None if mirror is None else mirror.log,
            progress=progress,
            strategy=strategy,
            watch=_watch(config, monitor),
        )
    except DivergedError as error:
        interactions = split.rows["train"][rows[batches.rows(error.batch).numpy()]].tolist()
        path = folder / "diverged.json"
        write_atomically(path, json.dumps({"interactions": interactions}).encode())
        raise UserError(f"{error}; the interactions of the batch are listed in {path}") from error
    if any(before[name] != value for name, value in _frozen_digests(model).items()):
        raise RuntimeError("training changed weights that are frozen")
    if adapter and all(torch.equal(model.get_parameter(name).cpu(), value.cpu()) for name, value in adapter.items()):
        raise UserError("training left the adapter as it was: raise optimizer.lr, or train for more steps")
    trained = {
        "best_epoch": result.best_epoch,
        "steps": result.steps,
        "training_rows_seen": min(
            result.steps * config.trainer.accumulate_grad_batches * config.batch_size, len(result.history) * len(items)
        ),
        "history": result.history,
    }
    return trained, result.earlier_seconds


def _watch(config: DictConfig, monitor: str) -> Callback | None:
    """What may stop a trial of a sweep early."""
    if config.trial.folder is None:
        return None
    from factorlm.sweeps.pruning import Prune  # takes a second to import

    return Prune(Path(config.trial.folder), config.trial.number, monitor)


def _adapter_names(config: DictConfig, model: nn.Module) -> list[str]:
    """Names of the adapter's weights; without one peft, which takes a second, is not even imported."""
    return [] if config.adapter is None else adapter_names(model)


def _frozen_digests(model: nn.Module) -> dict[str, str]:
    """Hash of each frozen weight that is whole in this process."""
    return {
        name: xxhash.xxh3_128_hexdigest(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        for name, value in model.named_parameters()
        if not value.requires_grad and not divided(value)
    }


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the values of each user, and what was recommended or scored, unless it is there."""
    for table, name in ((evaluation.per_user, "per_user"), (evaluation.table, evaluation.table_name)):
        if not (folder / f"{name}.parquet").exists():
            write_parquet(table, folder / f"{name}.parquet")


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write a table atomically."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    table.write_parquet(partial)
    partial.replace(path)


class _Clock:
    """Notes the seconds since the last call under a name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name], self._last = round(now - self._last, 2), now


def _silence_lightning() -> None:
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
