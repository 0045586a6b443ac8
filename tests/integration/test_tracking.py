"""W&B: offline by default with the real client, everything inside the run folder, always finished."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from factorlm.commands.train import train
from factorlm.errors import UserError
from factorlm.runs.record import read_record

Compose = Callable[..., DictConfig]


def logged(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (folder / "wandb").glob("offline-run-*/*.wandb"))


def test_offline_needs_no_account_and_stays_in_the_folder(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    import wandb

    for seed in (1, 2):
        folder = train(
            small("tracking=wandb", f"seed={seed}", "study=mystudy", "arm=myarm", f"run.dir={tmp_path}/{seed}"),
            progress=False,
        )
        assert wandb.run is None  # finished: the next run does not write into it
        content = logged(folder)
        for expected in (
            b"mystudy",
            b"myarm",
            f"myarm-seed{seed}".encode(),
            b"valid/ndcg@10",
            b"test/ndcg@10",
            b"train/loss",
        ):
            assert expected in content, expected
    assert not list((tmp_path / "home").rglob("*wandb*"))


def test_online_without_a_key_is_one_line(small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="needs an API key: run `wandb login`"):
        train(small("tracking=wandb", "tracking.mode=online", f"run.dir={tmp_path}/a"), progress=False)
    record = read_record(tmp_path / "a")
    assert record is not None
    assert record["status"] == "failed"


def test_no_secret_reaches_a_run_folder(small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    folder = train(small("tracking=wandb", f"run.dir={tmp_path}/a"), progress=False)
    for path in folder.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert os.environ["WANDB_API_KEY"] == secret
