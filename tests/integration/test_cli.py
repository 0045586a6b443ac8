"""The command line as a user meets it: exit statuses, one line for mistakes, JSON on standard output only."""

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

from factorlm.cli import main
from factorlm.commands.train import train

Compose = Callable[..., DictConfig]
FAST = ["dataset=synthetic", "trainer.max_epochs=2", "batch_size=256", "tracking=none"]


def factorlm(*arguments: str, cwd: Path, check: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "factorlm", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "FACTORLM_CACHE": str(cwd / "cache"), **environment},
    )  # fmt: skip
    assert check is None or result.returncode == check, result.stderr
    return result


@pytest.fixture
def mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command that must be refused says; in this process, which has imported everything."""
    monkeypatch.chdir(tmp_path)

    def line(*arguments: str) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        output, errors = capfd.readouterr()
        assert (stop.value.code, output, errors.count("\n")) == (2, "", 1), errors
        return errors

    return line


@pytest.mark.slow
def test_train_evaluate_runs_and_compare(tmp_path: Path) -> None:
    folders = []
    for seed in (1, 2):
        for arm, extra in (("ids", []), ("text", ["backbone=tiny"])):
            result = factorlm("train", *FAST, f"arm={arm}", f"seed={seed}", *extra, cwd=tmp_path)
            folders.append(result.stdout.splitlines()[-1])
            assert (tmp_path / folders[-1] / "record.json").exists()
    evaluated = json.loads(factorlm("evaluate", f"run.dir={folders[0]}", "--json", cwd=tmp_path).stdout)
    record = json.loads((tmp_path / folders[0] / "record.json").read_text())
    assert evaluated["metrics"]["test/ndcg@10"] == record["metrics"]["test/ndcg@10"]
    listed = json.loads(factorlm("runs", "--json", cwd=tmp_path).stdout)
    assert [run["status"] for run in listed] == ["done"] * 4
    assert "done" in factorlm("runs", cwd=tmp_path).stdout
    result = factorlm("compare", f"runs=[{','.join(folders)}]", "tracking=none", "--json", cwd=tmp_path)
    compared = json.loads(result.stdout)
    assert list(compared["arms"]) == ["ids", "text"]
    difference = [
        pl.read_parquet(tmp_path / b / "per_user.parquet").sort("user_id")["ndcg@10"]
        - pl.read_parquet(tmp_path / a / "per_user.parquet").sort("user_id")["ndcg@10"]
        for a, b in (folders[:2], folders[2:])
    ]
    assert compared["arms"]["text"]["effect"]["difference"] == pytest.approx(pl.concat(difference).mean())


def test_compare_refuses_other_seeds(small: Compose, tmp_path: Path, mistake: Callable[..., str]) -> None:
    runs = [
        str(train(small("baseline=bias", f"arm=a{seed}", f"seed={seed}", f"run.dir={tmp_path}/{seed}"), progress=False))
        for seed in (1, 2)
    ]
    said = mistake("compare", f"runs=[{','.join(runs)}]")
    assert "each needs the same seeds, once; they have {'a1': [1], 'a2': [2]}" in said


def test_compare_refuses_other_protocols_by_name(small: Compose, tmp_path: Path, mistake: Callable[..., str]) -> None:
    folders = [
        str(train(small("baseline=bias", f"split={split}", f"run.dir={tmp_path}/{split}"), progress=False))
        for split in ("user_time", "random")
    ]
    said = mistake("compare", f"runs=[{','.join(folders)}]")
    assert "cannot be compared with" in said
    assert "split" in said


MISTAKES = {
    ("trian",): "trian: no such command; did you mean 'train'?",
    ("train", "dataset=files", "dataset.interactions=none.csv"): "no such file: none.csv",
    ("evaluate",): "name a finished run (run.dir=PATH), or a study",
    ("evaluate", "run.dir=nowhere"): "run.dir=nowhere holds no run",
    ("compare", "study=nothing"): "study=nothing: there is no",
    ("compare",): "name a study",
    (
        "train",
        "tracking.mode=sometimes",
        "dataset=synthetic",
    ): "tracking.mode='sometimes': it must be offline or online",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_mistakes_are_one_line_and_status_two(arguments: tuple[str, ...], mistake: Callable[..., str]) -> None:
    assert MISTAKES[arguments] in mistake(*arguments)


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = factorlm("train", "sed=1", cwd=tmp_path, check=2)
    assert (result.stdout, result.stderr) == ("", "factorlm: sed: no such key; did you mean 'seed'?\n")


@pytest.mark.slow
def test_own_csv_with_one_config_file(tmp_path: Path) -> None:
    rows = [f"c{u},s{(u * 7 + i * i) % 40},2024-01-{i + 1:02d}" for u in range(60) for i in range(12)]
    rows = list(dict.fromkeys(rows))
    (tmp_path / "clicks.csv").write_text("customer,sku,day\n" + "\n".join(rows) + "\n")
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "shop.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /dataset: files\n  - override /tracking: none\n"
        "dataset:\n  interactions: clicks.csv\n  columns: {user: customer, item: sku, timestamp: day}\n"
        "trainer: {max_epochs: 2}\n"
    )
    result = factorlm("train", "--config-dir", "mine", "experiment=shop", cwd=tmp_path)
    per_user = pl.read_parquet(tmp_path / result.stdout.splitlines()[-1] / "per_user.parquet")
    assert per_user["user_id"].dtype == pl.String
    (tmp_path / "clicks.csv").write_text("customer,sku,day\nc1,s1,soon\n")
    assert "day='soon'" in factorlm("train", "--config-dir", "mine", "experiment=shop", cwd=tmp_path, check=2).stderr


def test_prepare_names_the_folder_and_repeats_fast(tmp_path: Path) -> None:
    first = factorlm("prepare", "dataset=synthetic", cwd=tmp_path).stdout.splitlines()
    assert Path(first[-1], "meta.json").exists()
    started = time.perf_counter()
    assert factorlm("prepare", "dataset=synthetic", cwd=tmp_path).stdout.splitlines() == first
    assert time.perf_counter() - started < 3  # under one second on an idle machine


def test_help_and_completion(tmp_path: Path) -> None:
    assert "factorlm compare study=" in factorlm("--help", cwd=tmp_path).stdout
    assert (
        "dataset: collm_ml1m, files, ml100k, ml1m, online_retail, synthetic, tallrec_movie"
        in factorlm("train", "--help", cwd=tmp_path).stdout
    )
    assert "complete -" in factorlm("completion", "bash", cwd=tmp_path).stdout

    def query(line: str) -> list[str]:
        return factorlm("completion", "query", cwd=tmp_path, COMP_LINE=line).stdout.split()

    assert query("factorlm tr") == ["train"]
    assert query("factorlm train datas") == ["dataset.", "dataset="]
    assert "backbone=minilm" in query("factorlm train backbone=")


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (signal.SIGTERM, 143, "cancelled"),
        pytest.param(signal.SIGINT, 130, "cancelled", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, "killed", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_says_so_and_can_be_repeated(tmp_path: Path, number: int, code: int, status: str) -> None:
    arguments = [
        "train",
        "dataset=synthetic",
        "tracking=none",
        "run.dir=a",
        "trainer.max_epochs=100000",
        "patience=100000",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "factorlm", *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "FACTORLM_CACHE": str(tmp_path / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell starts with & ignores it
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "a/checkpoint/model.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    process.wait(60)
    assert process.returncode == code
    assert json.loads(factorlm("runs", "run.dir=a", "--json", cwd=tmp_path).stdout)[0]["status"] == status


@pytest.mark.slow
def test_multirun_trains_each(tmp_path: Path) -> None:
    factorlm("train", *FAST, "-m", "seed=1,2", cwd=tmp_path)
    assert len(json.loads(factorlm("runs", "--json", cwd=tmp_path).stdout)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "runs"}
