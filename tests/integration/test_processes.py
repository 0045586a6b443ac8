"""Runs of two processes: what one gives, also where one of them fails or is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from omegaconf import DictConfig

from factorlm.commands.train import train
from factorlm.errors import UserError
from factorlm.runs.record import read_record
from factorlm.runs.store import status as run_status

Compose = Callable[..., DictConfig]
# a higher rate makes something of rounding, as it does where rows of a batch change places
LORA = ["backbone=tiny", "adapter=lora", "adapter.num_layers=2", "optimizer.lr=0.0001"]


@pytest.mark.parametrize(
    "extra",
    [
        ["batch_size=257"],  # the last batch has one row
        ["objective=bpr", "encoder=mean", "optimizer._target_=torch.optim.SGD", "optimizer.lr=1"],
        ["task=pointwise", "dataset.negatives=keep", "trainer.accumulate_grad_batches=2"],
        pytest.param([*LORA, "trainer.strategy=ddp", "adapter.gradient_checkpointing=true"], marks=pytest.mark.slow),
        pytest.param(
            [*LORA, "trainer.strategy=fsdp", "objective=sampled_softmax", "objective.negatives=in_batch"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_train_what_one_trains(small: Compose, extra: list[str]) -> None:
    folders = [train(small("trainer.max_epochs=2", f"trainer.devices={n}", *extra), progress=False) for n in (1, 2)]
    one, two = (read_record(folder) or {} for folder in folders)
    assert one["key"] != two["key"]
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    for name in ("parameters", "steps", "training_rows_seen", "best_epoch", "fingerprint", "test_evaluations"):
        assert two[name] == one[name]
    for mine, theirs in zip(one["history"], two["history"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
    assert set(two) == set(one)
    tables = [pl.read_parquet(folder / "per_user.parquet") for folder in folders]
    assert tables[0].select("user_id").equals(tables[1].select("user_id"))
    assert (folders[1] / "checkpoint" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "optimizer.lr=1e30",
            r"the loss is (nan|inf) at step \d+: lower optimizer.lr; the interactions .*diverged.json",
        ),
        ("optimizer=row_adam", "optimizer: row-wise ones train in one process: set trainer.devices=1"),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp divides a language model with an adapter"),
    ],
)
def test_where_one_process_fails_all_end(small: Compose, tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(small(f"run.dir={tmp_path}/a", "trainer.devices=2", extra), progress=False)
    assert (read_record(tmp_path / "a") or {})["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "status"), [(signal.SIGTERM, 143, "cancelled"), (signal.SIGKILL, -9, "killed")]
)
def test_no_process_outlives_the_command(tmp_path: Path, number: int, code: int, status: str) -> None:
    arguments = ["dataset=synthetic", "tracking=none", "run.dir=a", "trainer.max_epochs=100000", "patience=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "factorlm", "train", "trainer.devices=2", *arguments],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "FACTORLM_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    _until((tmp_path / "a/checkpoint/model.safetensors").exists)
    process.send_signal(number)
    assert process.wait(60) == code
    _until(lambda: not _alive(process.pid))
    assert run_status(tmp_path / "a", read_record(tmp_path / "a") or {}) == status


@pytest.mark.slow
def test_killed_processes_go_on_where_they_were(small: Compose, tmp_path: Path) -> None:
    arguments = ["dataset=synthetic", "tracking=none", "trainer.devices=2", "batch_size=64", "save_every=0"]
    arguments += ["task=pointwise", "head=deepfm", "head.dropout=0.3", "trainer.max_epochs=4"]
    command = [sys.executable, "-m", "factorlm", "train", *arguments]
    environment = {**os.environ, "FACTORLM_CACHE": str(tmp_path / "cache")}
    subprocess.run([*command, "run.dir=whole"], cwd=tmp_path, check=True, env=environment, capture_output=True)
    process = subprocess.Popen(
        [*command, "run.dir=parts"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _until((tmp_path / "parts/history.jsonl").exists)
    process.kill()
    process.wait(60)
    subprocess.run([*command, "run.dir=parts"], cwd=tmp_path, check=True, env=environment, capture_output=True)
    whole, parts = (read_record(tmp_path / name) or {} for name in ("whole", "parts"))
    assert parts["interruptions"] == 1
    assert parts["history"] == whole["history"]
    assert parts["metrics"] == whole["metrics"]
    weights = [(tmp_path / name / "checkpoint/model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _alive(session: int) -> bool:
    """Whether a process of a session still runs."""
    table = subprocess.check_output(["ps", "-eo", "sess=,stat="], text=True)
    return any(line.split()[0] == str(session) and line.split()[1][0] != "Z" for line in table.splitlines())
