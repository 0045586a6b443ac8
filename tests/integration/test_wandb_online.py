"""W&B online, by the real client against a server of ours: what arrives, also where the server fails."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from tests.integration.wandb_stub import Stub

from factorlm.cli import main
from factorlm.commands.train import train
from factorlm.runs.record import read_record
from factorlm.tracking import wandb as tracking
from factorlm.tracking.base import Row, Run
from factorlm.tracking.parts import logs
from factorlm.tracking.wandb import Wandb, WandbMirror

Compose = Callable[..., DictConfig]
KEY = "0123456789abcdef0123456789abcdef01234567"
QUICK = {  # what the client waits for, so that the tests need not
    "FILE_STREAM_TRANSMIT_INTERVAL": "0.1", "FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "0.1",
    "FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "1", "GRAPHQL_RETRY_WAIT_MIN_SECONDS": "0.1",
    "GRAPHQL_RETRY_WAIT_MAX_SECONDS": "1", "FILE_TRANSFER_RETRY_WAIT_MIN_SECONDS": "0.1",
    "FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "1",
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server that the client takes for W&B."""
    stub = Stub(tmp_path / "server")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    settings = {"BASE_URL": stub.url, "API_KEY": KEY} | {f"X_{name}": value for name, value in QUICK.items()}
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield stub
    if stub.up:
        stub.stop()


def history(epochs: int) -> list[Row]:
    return [{"epoch": epoch, "valid/x": epoch / 4} for epoch in range(epochs)]


def start(folder: Path, mode: Any = None) -> WandbMirror:
    folder.mkdir(exist_ok=True)
    (folder / "per_user.parquet").write_bytes(bytes(range(256)) * 100)
    return Wandb("p", None, mode).start(Run(folder, "name", "group", "arm", ["tag"], {"selection": "x", "lr": 0.5}))


def finish(mirror: WandbMirror, folder: Path) -> None:
    mirror.summarize({"test/x": 0.25, "valid/x": 0.75})
    mirror.files("results", [folder / "per_user.parquet"], {"data": "d"})
    mirror.finish(0)


def sync(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["sync", *arguments])
    return int(str(stop.value.code))


def content(server: Stub, name: str) -> dict[str, Any]:
    """What arrived of a run, without times and random names."""
    run = server.run(name)
    assert run["conflicts"] == []

    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key[0] != "_" and not isinstance(value, dict)}

    artifact = server.artifact("results", name)
    return {
        "rows": [plain(row) for row in server.rows(name)],
        "config": {key: value for key, value in run["config"].items() if key != "_wandb"},
        "summary": plain(run["summary"]),
        "state": (run["state"], run["exit_code"], run["groupName"], run["jobType"], run["tags"], run["displayName"]),
        "files": artifact["files"],
        "tables": sorted(server.tables(name).values(), key=str),
    }


def id_of(folder: Path) -> str:
    return str(json.loads((folder / "wandb/run.json").read_text())["id"])


def without_key(folder: Path) -> bool:
    return not any(KEY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_an_online_run_arrives_whole(small: Compose, server: Stub, tmp_path: Path) -> None:
    folder = train(small("tracking=wandb", "study=mystudy", "arm=myarm"), progress=False)
    record = read_record(folder)
    assert record is not None
    run = server.run()
    assert (run["groupName"], run["jobType"], run["displayName"]) == ("mystudy", "myarm", "myarm-seed1")
    assert run["tags"] == ["Synthetic", "UserTime", "FM"]
    assert (run["state"], run["exit_code"]) == ("finished", 0)
    assert run["config"]["model"]["num_factors"] == 8
    assert (run["config"]["key"], run["config"]["git"]) == (record["key"], record["git"])
    *epochs, _ = server.rows()
    for row, expected in zip(epochs, record["history"], strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert {name: run["summary"][name] for name in record["metrics"]} == pytest.approx(record["metrics"])
    artifact = server.artifact("results")
    assert artifact["files"] == {name: (folder / name).read_bytes() for name in ("per_user.parquet", "topk.parquet")}
    assert artifact["metadata"]["data"] == record["protocol"]["data"]
    assert set(artifact["metadata"]["sha256"]) == {"per_user.parquet", "topk.parquet", "checkpoint/model.safetensors"}
    assert {name for name, _ in server.tables().items()} == {"metrics", "learning_curve_table"}
    assert without_key(folder)
    assert not list((tmp_path / "home").rglob("*wandb*"))
    requests = server.requests
    assert sync(str(folder)) == 0
    assert server.requests == requests


def test_an_offline_run_and_sync_are_an_online_run(
    server: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ("online", "offline"):
        mirror = start(tmp_path / mode, mode)
        mirror.log(history(4))
        finish(mirror, tmp_path / mode)
    assert len(server.state["runs"]) == 1
    assert sync(str(tmp_path)) == 0
    assert f"[1/1] {tmp_path}/offline: uploaded\n" in capsys.readouterr().out
    online, offline = (content(server, id_of(tmp_path / mode)) for mode in ("online", "offline"))
    assert online == offline
    assert [row["valid/x"] for row in online["rows"][:4]] == [0, 0.25, 0.5, 0.75]
    requests = server.requests
    assert sync(str(tmp_path)) == 0
    assert capsys.readouterr().out == f"nothing to upload under {tmp_path}\n"
    assert server.requests == requests
    assert without_key(tmp_path / "offline")


def test_the_parts_of_a_resumed_run_are_merged(
    server: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    mirror = start(folder, "offline")
    mirror.log(history(3))
    mirror.finish(143)
    mirror = start(folder)  # online, but for its earlier part
    mirror.log(history(6))
    finish(mirror, folder)
    assert f"factorlm sync {folder} uploads both" in capsys.readouterr().err
    assert len(logs(folder)) == 2
    folder = folder.rename(tmp_path / "moved")
    assert sync(str(folder)) == 0
    arrived = content(server, id_of(folder))
    assert [row["epoch"] for row in arrived["rows"]] == [0, 1, 2, 3, 4, 5, 6]
    assert arrived["state"][:2] == ("finished", 0)
    assert arrived["files"]["per_user.parquet"] == (folder / "per_user.parquet").read_bytes()


def test_a_run_that_is_resumed_online_is_one_run(server: Stub, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for epochs, code in ((3, 143), (5, 0)):
        mirror = start(folder)
        mirror.log(history(epochs))
        mirror.finish(code)
        assert server.run()["exit_code"] == code
    assert len(logs(folder)) == 2
    assert [row["epoch"] for row in server.rows()] == [0, 1, 2, 3, 4]
    assert (len(server.state["runs"]), server.run()["conflicts"]) == (1, [])


@pytest.mark.slow
def test_a_thousand_rows_arrive_once_from_a_bad_server(server: Stub, tmp_path: Path) -> None:
    mirror = start(tmp_path / "run")
    server.fail_every, server.stall_every, server.stall_seconds = 3, 7, 1.0
    rows = history(1000)
    for epoch in range(1, 1001):
        mirror.log(rows[:epoch])
        time.sleep(0.005)
        if epoch == 500:
            server.stop()
        if epoch == 700:
            server.start()
    finish(mirror, tmp_path / "run")
    assert server.requests > 20
    arrived = content(server, id_of(tmp_path / "run"))
    assert [(row["epoch"], row["valid/x"]) for row in arrived["rows"][:-1]] == [
        (epoch, epoch / 4) for epoch in range(1000)
    ]
    assert arrived["files"]["per_user.parquet"] == (tmp_path / "run/per_user.parquet").read_bytes()
    assert arrived["state"][:2] == ("finished", 0)


@pytest.mark.slow
def test_a_server_that_vanishes_costs_nothing_but_a_bounded_wait(
    small: Compose, server: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 3)
    summarize = WandbMirror.summarize

    def vanish(mirror: WandbMirror, values: dict[str, Any]) -> None:
        server.stop()
        summarize(mirror, values)

    monkeypatch.setattr(WandbMirror, "summarize", vanish)
    started = time.monotonic()
    folder = train(small("tracking=wandb"), progress=False)
    assert time.monotonic() - started < 60
    record = read_record(folder)
    assert record is not None
    assert record["status"] == "done"
    assert f"factorlm sync {folder} uploads" in capsys.readouterr().err
    assert sync(str(folder)) == 2
    assert "nothing is lost" in capsys.readouterr().err
    server.start()
    assert sync(str(folder)) == 0
    epochs = [row["epoch"] for row in server.rows()]
    assert epochs == list(range(len(record["history"]) + 1))
    assert server.artifact("results")["files"]["per_user.parquet"] == (folder / "per_user.parquet").read_bytes()
    assert server.run()["summary"]["test/ndcg@10"] == pytest.approx(record["metrics"]["test/ndcg@10"])
    assert without_key(folder)


@pytest.mark.parametrize("trouble", ["gone", "refuses"])
def test_without_a_server_a_run_is_kept_offline(
    server: Stub, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "START_SECONDS", 2)
    if trouble == "gone":
        server.stop()
    server.refuse = trouble == "refuses"
    mirror = start(tmp_path / "run", "online")
    mirror.log(history(2))
    finish(mirror, tmp_path / "run")
    assert f"the run is kept offline, and factorlm sync {tmp_path}/run uploads it later" in capsys.readouterr().err
    if trouble == "refuses":
        assert sync(str(tmp_path)) == 2
        assert "sync: Failed to authenticate" in capsys.readouterr().err
        server.refuse = False
    else:
        server.start()
    assert sync(str(tmp_path)) == 0
    assert [row["epoch"] for row in content(server, id_of(tmp_path / "run"))["rows"]] == [0, 1, 2]


def test_mistakes_of_sync_are_one_line(
    server: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(str(tmp_path / "nowhere")) == 2
    assert "is no folder: name a run folder, or one that holds runs" in capsys.readouterr().err
    start(tmp_path / "run", "offline").finish(0)
    shutil.copytree(tmp_path / "run", tmp_path / "broken")
    (log,) = logs(tmp_path / "broken")
    log.write_bytes(log.read_bytes()[:7])  # killed before anything was written
    monkeypatch.delenv("WANDB_API_KEY")
    assert sync(str(tmp_path)) == 2
    assert "sync needs an API key: run `wandb login`" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert sync(str(tmp_path)) == 0
    assert sync(str(tmp_path)) == 0
    assert f"nothing to upload under {tmp_path}" in capsys.readouterr().out
