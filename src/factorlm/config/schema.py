"""The shell of every command: typed, closed, and nothing but what no component owns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class RunConfig:
    """Where a run lives."""

    root: str = MISSING
    dir: str | None = None


@dataclass
class TrialConfig:
    """Which trial of which sweep a run is, where the sweep may stop it early."""

    folder: str | None = None
    number: int | None = None


@dataclass
class ModelConfig:
    """Arguments of the recommender that no component owns."""

    num_factors: int = MISSING
    init_std: float = MISSING
    factor_l2: float = MISSING
    compile: bool = MISSING


@dataclass
class ShellConfig:
    """What every command shares; comments are in conf/shell.yaml."""

    threads: int = MISSING
    cache: str = MISSING
    plugins: list[str] = field(default_factory=list)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass
class TrainConfig(ShellConfig):
    """The shell of `train` and `prepare`; comments are in conf/train.yaml."""

    dataset: Any = MISSING
    split: Any = MISSING
    fields: Any = MISSING
    backbone: Any = None
    adapter: Any = None
    prompt: Any = None
    soft_tokens: Any = None
    baseline: Any = None
    head: Any = MISSING
    encoder: Any = None
    objective: Any = MISSING
    metrics: Any = MISSING
    candidates: Any = MISSING
    optimizer: Any = MISSING
    trainer: Any = MISSING
    tracking: Any = None
    model: ModelConfig = field(default_factory=ModelConfig)
    task: str = MISSING
    history: str = MISSING
    study: str = MISSING
    arm: str = MISSING
    seed: int = MISSING
    selection: str = MISSING
    shots: int | None = None
    batch_size: int = MISSING
    save_every: float = MISSING
    patience: int = MISSING
    init_from: str | None = None
    eval_batch_size: int = MISSING
    top: int = MISSING
    trial: TrialConfig = field(default_factory=TrialConfig)


@dataclass
class FixedConfig:
    """Rows kept apart from a split that fixes the training rows."""

    test: str | None = None


@dataclass
class StudyConfig(ShellConfig):
    """What commands share that train the missing runs of a study."""

    study: str | None = None
    arms: list[str] | None = None
    protocols: list[str] | None = None
    jobs: int = MISSING
    studies: str = MISSING
    tracking: Any = None
    json: bool = False


@dataclass
class EvaluateConfig(StudyConfig):
    """The shell of `evaluate`; comments are in conf/evaluate.yaml."""

    part: str = MISSING
    fixed: FixedConfig = field(default_factory=FixedConfig)


@dataclass
class CompareConfig(StudyConfig):
    """The shell of `compare`."""

    runs: list[str] | None = None
    seeds: list[int] | None = None
    overrides: list[str] = field(default_factory=list)
    metric: str | None = None
    resamples: int = MISSING
    publish: bool = False
    force: bool = False


@dataclass
class ReproduceConfig(StudyConfig):
    """The shell of `reproduce`."""

    seeds: list[int] | None = None


@dataclass
class ExportConfig(ShellConfig):
    """The shell of `export`."""

    study: str | None = None
    studies: str = MISSING
    out: str | None = None


@dataclass
class PowerConfig(ShellConfig):
    """The shell of `power`."""

    runs: list[str] | None = None
    metric: str = MISSING
    effect: float = MISSING
    alpha: float = MISSING
    power: float = MISSING
    user_sd: float | None = None
    seed_sd: float | None = None
    noise_sd: float | None = None
    seeds: list[int] = field(default_factory=list)
    json: bool = False


@dataclass
class ScoreConfig:
    """The shell of `score`; comments are in conf/score.yaml."""

    qrels: str | None = None
    run: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    ks: list[int] = field(default_factory=list)
    min_value: float = MISSING
    threshold: float | None = None
    columns: dict[str, str] = field(default_factory=dict)
    metric: str | None = None
    resamples: int = MISSING
    out: str | None = None
    json: bool = False


@dataclass
class AuditConfig(ShellConfig):
    """The shell of `audit`."""

    json: bool = False


@dataclass
class ReportConfig(ShellConfig):
    """The shell of `report`."""

    study: str | None = None
    studies: str = MISSING
    wandb: bool = False
    tracking: Any = None
    json: bool = False


@dataclass
class BoardConfig(ShellConfig):
    """The shell of `board`."""

    port: int = MISSING


@dataclass
class RunsConfig(ShellConfig):
    """The shell of `runs`; comments are in conf/runs.yaml."""

    words: list[str] = field(default_factory=list)
    sort: str = MISSING
    yes: bool = False
    json: bool = False


@dataclass
class SyncConfig(ShellConfig):
    """The shell of `sync`; comments are in conf/sync.yaml."""

    folder: str | None = None
    timeout: float = MISSING


SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "power": PowerConfig,
    "score": ScoreConfig,
    "audit": AuditConfig,
    "runs": RunsConfig,
    "reproduce": ReproduceConfig,
    "export": ExportConfig,
    "report": ReportConfig,
    "board": BoardConfig,
    "sync": SyncConfig,
}


def register() -> None:
    """Make the shells known to Hydra as ``<command>_schema``."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
