"""The index of runs: whatever happens to it or to the folders, what is read is what the folders hold."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factorlm.runs.index import INDEX, read_runs
from factorlm.runs.store import find_runs

CONFIG = "seed: {seed}\nmodel: {{num_factors: 8}}\nhead:\n  _target_: factorlm.heads.fm.FM\n"


def make_run(root: Path, number: int, status: str = "done", padding: int = 0) -> Path:
    folder = root / f"study{number % 3}" / f"run-{number}"
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    metrics = {"valid/ndcg@10": number / 100, "test/ndcg@10": number / 50}
    metrics |= {f"test/other@{place}": float(place) for place in range(padding)}
    record = {
        "schema": 1,
        "status": status,
        "study": f"study{number % 3}",
        "arm": "a",
        "seed": number,
        "key": f"{number:012x}",
    }
    record |= {
        "metrics": metrics,
        "protocol": {"selection": "max valid/ndcg@10"},
        "started": f"2026-01-01T{number:05d}",
    }
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(CONFIG.format(seed=number))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for number in range(12):
        make_run(tmp_path, number)
    return tmp_path


def seeds(root: Path) -> list[int]:
    runs, _ = read_runs(root, ["model.num_factors", "ndcg"], ["config", "metrics"])
    assert all(run["values"] == {"model.num_factors": 8, "ndcg": run["seed"] / 50} for run in runs)
    assert all(run["config"]["seed"] == run["seed"] for run in runs)
    return [run["seed"] for run in runs]


def test_it_follows_the_folders(store: Path) -> None:
    assert seeds(store) == list(range(12))
    make_run(store, 12)
    record = make_run(store, 3, "failed") / "record.json"
    os.rename(store / "study1", store / "study9")
    (store / "study0/run-0/record.json").unlink()
    assert seeds(store) == list(range(1, 13))
    found = {run["seed"]: run for run in read_runs(store)[0]}
    assert (found[3]["status"], found[4]["folder"]) == ("failed", str(store / "study9/run-4"))
    record.write_text(record.read_text().replace('"failed"', '"pruned"'))
    assert read_runs(store)[0][2]["status"] == "pruned"


def test_only_what_changed_is_read_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_runs(store)
    make_run(store, 5, "failed")
    reread = []
    read_runs(store, track=lambda items: reread.extend(items) or items)
    assert [os.fsdecode(folder) for folder, _ in reread] == ["study2/run-5"]


BROKEN = {
    "garbage": lambda path: path.write_bytes(b"garbage" * 999),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "other table": lambda path: _change(path, "ALTER TABLE runs RENAME TO others"),
    "other version": lambda path: sqlite3.connect(path).execute("PRAGMA user_version=99"),
    "rows": lambda path: _change(path, "UPDATE runs SET metrics = '{'"),
    "a folder": lambda path: path.unlink() or path.mkdir(),
    "gone": lambda path: path.unlink(),
}  # fmt: skip


def _change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute(statement)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_index_changes_nothing(store: Path, how: str) -> None:
    seeds(store)
    BROKEN[how](store / INDEX)
    assert seeds(store) == seeds(store) == list(range(12))


def test_random_bytes_in_the_index_change_nothing(store: Path) -> None:
    expected = read_runs(store, ["ndcg"], ["metrics"])
    generator = random.Random(0)
    for _ in range(30):
        content = bytearray((store / INDEX).read_bytes())
        for _ in range(40):
            content[generator.randrange(len(content))] = generator.randrange(256)
        (store / INDEX).write_bytes(content)
        assert read_runs(store, ["ndcg"], ["metrics"]) == expected


def test_where_nothing_can_be_written(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: str, timeout: float) -> sqlite3.Connection:
        if place != ":memory:":
            raise error
        return connect(place, timeout=timeout)

    connect = sqlite3.connect
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert seeds(store) == list(range(12))
    assert not (store / INDEX).exists()


def test_no_index_without_runs_or_in_a_run(store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert read_runs(tmp_path / "empty") == read_runs(tmp_path / "nowhere") == ([], [])
    assert [run["seed"] for run in read_runs(store / "study0/run-0")[0]] == [0]
    assert not (store / "study0/run-0" / INDEX).exists()
    assert not (tmp_path / "empty" / INDEX).exists()


GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"schema": 1, "status": "do',
    "binary": bytes(range(256)),
    "a list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
}
ODD: dict[str, bytes] = {
    "nothing known": b"{}",
    "wrong types": b'{"status": 7, "metrics": [1], "seconds": "x", "protocol": null, "started": {"a": 1}, '
    b'"key": [], "seed": "\\u001b[31m"}',
    "not a number": b'{"status": "done", "metrics": {"test/ndcg@10": NaN, "valid/x": -Infinity}, "seed": 1e999}',
    "quotes": b'{"status": "\\"; DROP TABLE runs", "study": "\\ud800", "metrics": {"a\\"b": 1}}',
}  # fmt: skip


def test_garbage_is_named_and_the_rest_is_listed(store: Path) -> None:
    for place, content in enumerate(GARBAGE.values()):
        (make_run(store, 100 + place) / "record.json").write_bytes(content)
    for place, content in enumerate(ODD.values()):
        (make_run(store, 200 + place) / "record.json").write_bytes(content)
    (make_run(store, 300) / "config.yaml").write_bytes(b"a: [b: {\xff")
    (make_run(store, 301) / "config.yaml").write_text("a: &a [*a]")
    (store / "folder/record.json").mkdir(parents=True)
    (store / "dangling").mkdir()
    (store / "dangling/record.json").symlink_to("nowhere")
    (store / "loop").symlink_to(store)
    os.mkfifo(store / "study0/record.json")
    os.makedirs(os.fsencode(store) + b"/\xff\xfe/run")
    os.rename(os.fsencode(store) + b"/study0/run-0/record.json", os.fsencode(store) + b"/\xff\xfe/run/record.json")
    for root in (store, store):  # as it is read from the folders and from the index
        runs, unreadable = read_runs(root, ["ndcg", "seed"])
        assert len(runs) == 12 + len(ODD) + 2
        assert len(unreadable) == len(GARBAGE)
    assert len(find_runs(store)) == len(runs)
    for arguments in ([], ["--json"], ["--sort", "-ndcg"], ["ndcg>0", "--sort", "seed"], ["status!=done"]):
        result = subprocess.run(
            [sys.executable, "-m", "factorlm", "runs", f"run.root={store}", *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert "readable record.json: 6, as" in result.stderr
        assert "\x1b" not in result.stdout


def _read_often(root: Path) -> None:
    for _ in range(20):
        runs, _ = read_runs(root)
        assert len(runs) >= 12


def test_processes_that_use_one_index(store: Path) -> None:
    context = multiprocessing.get_context("spawn")
    readers = [context.Process(target=_read_often, args=(store,)) for _ in range(2)]
    for reader in readers:
        reader.start()
    number = 12
    while any(reader.is_alive() for reader in readers):
        make_run(store, number)
        (store / INDEX).unlink(missing_ok=True)
        number += 1
        time.sleep(0.02)
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert len(seeds(store)) == number


@pytest.mark.slow
def test_ten_thousand_runs_list_in_two_seconds(tmp_path: Path) -> None:
    for number in range(10_000):
        make_run(tmp_path, number, "running" if number % 100 == 0 else "done", padding=100)
    command = [sys.executable, "-m", "factorlm", "runs", f"run.root={tmp_path}"]
    assert len(subprocess.run(command, capture_output=True, check=True).stdout.splitlines()) == 10_001
    for arguments in ([], ["ndcg>100", "head=fm", "--sort", "-ndcg"]):
        walls = []
        for _ in range(3):
            started = time.perf_counter()
            subprocess.run([*command, *arguments], capture_output=True, check=True)
            walls.append(time.perf_counter() - started)
        assert min(walls) < 2, walls


def test_listing_imports_no_heavy_library(store: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "factorlm", "runs", f"run.root={store}"]
    imported = {line.rpartition("|")[2].strip() for line in subprocess.run(
        command, capture_output=True, text=True, check=True).stderr.splitlines()}  # fmt: skip
    assert "factorlm.runs.index" in imported
    assert not imported & {"torch", "polars", "numpy", "transformers", "pytorch_lightning", "wandb", "scipy"}
