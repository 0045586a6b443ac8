"""A run that is interrupted and goes on ends as one that was not: to the last bit."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from factorlm.commands.train import train
from factorlm.errors import TerminatedError
from factorlm.runs.record import read_record, write_json
from factorlm.runs.store import STATE, status
from factorlm.training.module import PointwiseModule, RankingModule

Compose = Callable[..., DictConfig]
ARMS: dict[str, list[str]] = {
    "fm": [],
    "dropout and history by user": ["task=pointwise", "encoder=attention", "head=deepfm", "head.dropout=0.3"],
    "negatives": ["head=dot", "objective=bpr"],
    "row-wise optimizer": ["objective=sampled_softmax", "optimizer=row_adam", "optimizer.lr=0.01"],
    "accumulation": ["trainer.accumulate_grad_batches=2"],
    "steps": ["trainer.max_steps=110", "trainer.max_epochs=100"],
    "part of an epoch": ["trainer.limit_train_batches=4", "trainer.max_epochs=6", "save_every=0"],
    "lora": ["backbone=tiny", "adapter=lora", "adapter.num_layers=1"],
    "prompt": [
        "task=pointwise",
        "prompt=liked",
        "dataset.num_users=40",
        "backbone=tiny",
        "backbone.max_seq_len=4096",
        "adapter=lora",
        "adapter.num_layers=1",
        "shots=128",
        "batch_size=8",
    ],
}


@contextmanager
def interrupted_at(batch: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let SIGTERM arrive in the middle of the training of a batch, counted from 1 in this process."""
    seen = 0

    def wrap(step: Callable[..., Any]) -> Callable[..., Any]:
        def training_step(self: Any, *arguments: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == batch:
                signal.raise_signal(signal.SIGTERM)
            return step(self, *arguments)

        return training_step

    with monkeypatch.context() as patch:
        for module in (RankingModule, PointwiseModule):
            patch.setattr(module, "training_step", wrap(module.training_step))
        yield


def content(folder: Path) -> dict[str, Any]:
    """What must not differ: files and numbers."""
    record = read_record(folder) or {}
    files = {path.name: path.read_bytes() for path in [*folder.glob("*.parquet"), *folder.glob("checkpoint/*.st*")]}
    weights = (folder / "checkpoint/model.safetensors").read_bytes()
    kept = {key: record[key] for key in ("status", "key", "metrics", "history", "best_epoch", "steps")}
    return {**files, **kept, "weights": weights, "lines": (folder / "history.jsonl").read_text()}


@pytest.mark.parametrize("arm", [pytest.param(arm, marks=[pytest.mark.slow] * (arm == "prompt")) for arm in ARMS])
def test_interrupted_is_uninterrupted(
    arm: str, small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["batch_size=64", *ARMS[arm]]
    whole = train(small(*overrides, f"run.dir={tmp_path}/whole"), progress=False)
    parts = tmp_path / "parts"
    for batch in (3, 1, 7, 11):
        with interrupted_at(batch, monkeypatch), pytest.raises(TerminatedError):
            train(small(*overrides, f"run.dir={parts}"), progress=False)
        record = read_record(parts) or {}
        assert record["status"] == "cancelled"
        assert (parts / "checkpoint" / STATE).exists()
    train(small(*overrides, f"run.dir={parts}"), progress=False)
    assert content(parts) == content(whole)
    assert (read_record(parts) or {})["interruptions"] == 4
    assert not (parts / "checkpoint" / STATE).exists()


def test_an_epoch_that_is_validated_in_parts_is_repeated(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["batch_size=64", "+trainer.val_check_interval=0.5", "save_every=0"]
    whole = train(small(*overrides, f"run.dir={tmp_path}/whole"), progress=False)
    parts = tmp_path / "parts"
    for batch in (3, 12):
        with interrupted_at(batch, monkeypatch), pytest.raises(TerminatedError):
            train(small(*overrides, f"run.dir={parts}"), progress=False)
    train(small(*overrides, f"run.dir={parts}"), progress=False)
    assert content(parts) == content(whole)


def test_a_kill_in_the_evaluation_repeats_no_training(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small("save_every=0", f"run.dir={tmp_path}/a")
    with monkeypatch.context() as patch:
        patch.setattr("factorlm.commands.execute.write_evaluation", lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(TerminatedError):
            train(config, progress=False)
    with interrupted_at(1, monkeypatch):  # no batch comes
        assert status(train(config, progress=False), read_record(tmp_path / "a") or {}) == "done"


def test_another_version_starts_again(small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("batch_size=64", f"run.dir={tmp_path}/a")
    with interrupted_at(3, monkeypatch), pytest.raises(TerminatedError):
        train(config, progress=False)
    record = read_record(tmp_path / "a") or {}
    write_json(tmp_path / "a/record.json", record | {"versions": record["versions"] | {"torch": "2.0.0"}})
    train(config, progress=False)
    assert "interruptions" not in (read_record(tmp_path / "a") or {})


def test_a_full_disk_is_said_and_costs_nothing(small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(small("batch_size=64", f"run.dir={tmp_path}/whole"), progress=False)
    config = small("batch_size=64", "save_every=0", f"run.dir={tmp_path}/a")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_after(40, Path.write_bytes))
        with pytest.raises(OSError, match="No space left"):
            train(config, progress=False)
    assert (read_record(tmp_path / "a") or {})["status"] == "failed"
    assert content(train(config, progress=False)) == content(whole)


def full_after(writes: int, write: Callable[[Path, bytes], int]) -> Callable[[Path, bytes], int]:
    """Writing that works so many times, and then as on a full disk."""
    left = writes

    def write_bytes(path: Path, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    return write_bytes
