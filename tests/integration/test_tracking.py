"""Trackers without a server: W&B offline, csv and Trackio; everything in the run folder, always finished."""

from __future__ import annotations

import json
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
from factorlm.tracking.base import Run
from factorlm.tracking.csv import Csv
from factorlm.tracking.parts import logs, records
from factorlm.tracking.wandb import Wandb

Compose = Callable[..., DictConfig]


def rows(folder: Path) -> list[dict[str, float]]:
    """The rows in the W&B logs of a run folder."""
    return [
        record["history"]["item"] for log in logs(folder) for record in records(log) if "history" in record
    ]  # fmt: skip


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
        (log,) = logs(folder)
        assert log.parent.name.startswith("offline-run-")
        record = read_record(folder)
        assert record is not None
        found = records(log)
        (run,) = [entry["run"] for entry in found if "run" in entry]
        assert (run["run_group"], run["job_type"], run["display_name"]) == ("mystudy", "myarm", f"myarm-seed{seed}")
        config = run["config"]["update"]
        assert (config["seed"], config["key"], config["git"]) == (seed, record["key"], record["git"])
        *epochs, tables = rows(folder)
        for row, expected in zip(epochs, record["history"], strict=True):
            assert {name: row[name] for name in expected} == pytest.approx(expected)
        assert {"metrics", "learning_curve_table"} <= {name.partition(".")[0] for name in tables}
        summary = {
            name: value for entry in found for name, value in entry.get("summary", {}).get("update", {}).items()
        }  # fmt: skip
        assert summary["test/ndcg@10"] == record["metrics"]["test/ndcg@10"]
        assert found[-1]["exit"].get("exit_code", 0) == 0
    assert not list((tmp_path / "home").rglob("*wandb*"))


def test_online_without_a_key_is_one_line(small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="needs an API key: run `wandb login`"):
        train(small("tracking=wandb", "tracking.mode=online", f"run.dir={tmp_path}/a"), progress=False)
    record = read_record(tmp_path / "a")
    assert record is not None
    assert record["status"] == "failed"
    assert train(small("tracking=wandb", f"run.dir={tmp_path}/b"), progress=False)
    (log,) = logs(tmp_path / "b")
    assert log.parent.name.startswith("offline-run-")  # where no key is known


def test_no_secret_reaches_a_run_folder(small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    folder = train(small("tracking=wandb", f"run.dir={tmp_path}/a"), progress=False)
    for path in folder.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert os.environ["WANDB_API_KEY"] == secret


KILLED = """
import os, signal, sys, time
from pathlib import Path
from factorlm.tracking.base import Run
from factorlm.tracking.wandb import Wandb

mirror = Wandb("p", None, "offline").start(Run(Path(sys.argv[1]), "a", "g", "j", [], {}))
rows = [{"epoch": epoch, "valid/x": epoch / 2} for epoch in range(6)]
mirror._starting.result()
mirror.log(rows[:5])
(log,) = Path(sys.argv[1]).glob("wandb/offline*/*.wandb")
while log.stat().st_size < 1000:
    time.sleep(0.1)
time.sleep(1.5)
mirror.log(rows)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_run_loses_a_second_and_its_next_part_fills_the_gap(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert result.returncode == -signal.SIGKILL
    kept = [row["epoch"] for row in rows(tmp_path)]
    assert kept[:5] == [0, 1, 2, 3, 4]
    mirror = Wandb("p", None, "offline").start(Run(tmp_path, "a", "g", "j", [], {}))
    mirror.log([{"epoch": epoch, "valid/x": epoch / 2} for epoch in range(9)])
    mirror.finish(0)
    assert [row["epoch"] for row in rows(tmp_path)] == list(range(9))
    first, second = [next(entry["run"] for entry in records(log) if "run" in entry) for log in logs(tmp_path)]
    assert first["run_id"] == second["run_id"]


@pytest.mark.slow
def test_a_terminated_run_ends_with_143_and_goes_on_in_a_second_part(tmp_path: Path, cache: Path) -> None:
    arguments = ["dataset=synthetic", "run.dir=a", "trainer.max_epochs=80", "patience=1000", f"cache={cache}"]
    arguments.append("save_every=0.2")
    command = [sys.executable, "-m", "factorlm", "train", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("a/wandb/*/*.wandb")) and time.monotonic() < deadline:
        time.sleep(0.05)
    while not (tmp_path / "a/checkpoint/state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    codes = [records(log)[-1]["exit"].get("exit_code", 0) for log in logs(tmp_path / "a")]
    assert codes == [143, 0]
    *epochs, _ = rows(tmp_path / "a")
    history = (read_record(tmp_path / "a") or {})["history"]
    assert [row["epoch"] for row in epochs] == [row["epoch"] for row in history]
    assert len(history) == 80


def test_csv_holds_the_history_and_the_results(small: Compose) -> None:
    folder = train(small("tracking=csv"), progress=False)
    record = json.loads((folder / "record.json").read_text())
    for row, expected in zip(pl.read_csv(folder / "metrics.csv").to_dicts(), record["history"], strict=True):
        assert row == pytest.approx(expected)
    summary = dict(pl.read_csv(folder / "summary.csv").rows())
    assert float(summary["test/ndcg@10"]) == record["metrics"]["test/ndcg@10"]
    assert float(summary["seconds.train"]) == record["seconds"]["train"]


def test_csv_of_a_later_part_replaces_that_of_the_earlier(tmp_path: Path) -> None:
    for epochs in (1, 3):
        mirror = Csv().start(Run(tmp_path, "a", "g", "j", [], {}))
        mirror.log([{"epoch": epoch, "step": None} for epoch in range(epochs)])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step\n0,\n1,\n2,\n"


def test_trackio_keeps_its_database_under_the_root(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    folder = train(small("tracking=trackio"), progress=False)
    record = json.loads((folder / "record.json").read_text())
    from trackio.sqlite_storage import SQLiteStorage

    logged = SQLiteStorage.get_logs("factorlm", f"run-seed1-{record['key']}")
    assert [row["valid/ndcg@10"] for row in logged[:-1]] == [row["valid/ndcg@10"] for row in record["history"]]
    assert logged[-1]["test/ndcg@10"] == record["metrics"]["test/ndcg@10"]
    assert (tmp_path / "runs/trackio/factorlm.db").exists()
    assert not list((tmp_path / "home").rglob("*trackio*"))
    assert capsys.readouterr().out == ""


def test_trackio_does_not_leave_the_machine(small: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    with pytest.raises(UserError, match="TRACKIO_SPACE_ID=me/space: tracking=trackio stays on this machine"):
        train(small("tracking=trackio"), progress=False)
