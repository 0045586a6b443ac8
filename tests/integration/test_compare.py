"""A study on synthetic data: trained in parallel, interrupted, continued, compared and reported."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from factorlm.cli import main
from factorlm.runs.identity import digest

STUDY = """
question: Does text help on synthetic data?
metric: ndcg@10
smallest_effect: 0.01
baseline: ids
seeds: [1, 2]
protocols: {warm: [split=user_time], cold: [split=cold_item]}
shared:
  [dataset=synthetic, trainer.max_epochs=12, optimizer.lr=0.03, batch_size=256, model.factor_l2=0.01,
   "metrics.slices=[train_interactions]"]
arms:
  popularity: [baseline=bias]
  ids: [fields=ids]
  text: [backbone=tiny]
  lora:
    runs: {init_from: text}
    overrides: [backbone=tiny, adapter=lora, adapter.num_layers=1, trainer.max_epochs=1, trainer.limit_train_batches=2]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "experiments" / "demo").mkdir(parents=True)
    (tmp_path / "experiments" / "demo" / "study.yaml").write_text(STUDY)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "factorlm", "compare", "study=demo", "tracking=none", "resamples=500", *arguments]


def environment(cwd: Path) -> dict[str, str]:
    return {**os.environ, "FACTORLM_CACHE": str(cwd / "cache")}


def left_behind(cwd: Path) -> list[str]:
    """Command lines of processes that were started for the study."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().decode(errors="replace"))
    return [line for line in lines if str(cwd) in line and "pytest" not in line.split("\0")[1:3]]


def records(cwd: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in cwd.glob("runs/**/record.json")]
    return {f"{record['study']} {record['arm']} {record['seed']}": record for record in found}


@pytest.mark.slow
def test_killed_and_continued_it_answers_the_question(study: Path) -> None:
    process = subprocess.Popen(
        command(), cwd=study, env=environment(study), stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 90
    while sum(record["status"] == "done" for record in records(study).values()) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)  # only the parent: its workers must notice
    process.wait()
    done = {name: record for name, record in records(study).items() if record["status"] == "done"}
    assert 4 <= len(done) < 16
    deadline = time.monotonic() + 10
    while left_behind(study) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left_behind(study)
    result = subprocess.run(
        command("--json", "publish=true"),
        cwd=study,
        env=environment(study),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    after = records(study)
    assert len(after) == 16
    assert all(record["status"] == "done" for record in after.values())
    assert all(after[name] == record for name, record in done.items())  # finished runs were not redone
    answer = json.loads(result.stdout)
    assert list(answer["protocols"]["cold"]["arms"]) == ["ids", "popularity", "text", "lora"]
    assert answer["protocols"]["cold"]["arms"]["text"]["effect"]["low"] > 0
    report = (study / answer["report"]).read_text()
    assert "text is better than ids" in report
    assert "lora" in (study / "runs/demo/report.html").read_text()
    assert answer["protocols"]["cold"]["margin"] == 0.01
    assert (study / "experiments/demo/report.md").read_text() == report
    assert "](train_interactions.svg)" in report
    assert "ndcg@10 minus that of ids" in (study / "experiments/demo/train_interactions.svg").read_text()
    assert str(study) not in (study / "experiments/demo/results/cold.json").read_text()
    again = subprocess.run(command(), cwd=study, env=environment(study), capture_output=True, check=False)
    assert again.returncode == 0
    assert records(study) == after  # nothing was trained again


@pytest.mark.slow
def test_a_failing_arm_does_not_stop_the_others(study: Path) -> None:
    bad = STUDY.replace("popularity: [baseline=bias]", "popularity: [backbone=tiny, dataset.text=null]")
    (study / "experiments/demo/study.yaml").write_text(bad)
    small = command("protocols=[warm]", "seeds=[1]", "arms=[popularity,ids,text]")
    result = subprocess.run(small, cwd=study, env=environment(study), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert "1 of 3 runs failed, first warm/popularity seed 1" in last
    assert "set dataset.text" in last
    assert sorted(record["status"] for record in records(study).values()) == ["done", "done", "failed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("baseline: ids", "baseline: idz"), "baseline 'idz' is not an arm"),
        (("init_from: text", "init_from: lora"), "needs the run of 'lora', which is no arm before it"),
        (("seeds: [1, 2]", "seed: 1"), "missing keys ['seeds'], unknown keys ['seed']"),
        (("ids: [fields=ids]", "ids: {overrides: {warm: []}}"), "overrides for warm; give a list for each protocol"),
        (("ids: [fields=ids]", "ids: [fields=idz]"), "fields=idz: no such option; did you mean 'ids'?"),
    ],
)  # fmt: skip
def test_mistakes_in_a_study(
    study: Path,
    change: tuple[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    (study / "experiments/demo/study.yaml").write_text(STUDY.replace(*change))
    monkeypatch.chdir(study)
    monkeypatch.setenv("FACTORLM_CACHE", str(study / "cache"))
    assert call(*command()[3:]) == 2
    assert message in capfd.readouterr().err


def call(*arguments: str) -> int:
    """Status of a command in this process."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[str]]:
    """Run folders of two arms with three seeds each, written without training."""
    folders: dict[str, list[str]] = {}
    for place, arm in enumerate(("ids", "text")):
        for seed in (1, 2, 3):
            values = np.random.default_rng(0).random(200) + np.random.default_rng(10 * place + seed).normal(
                0, 0.05, 200
            )
            folder = tmp_path / f"{arm}-{seed}"
            folder.mkdir()
            pl.DataFrame({"user_id": range(200), "ndcg@10": values}).write_parquet(folder / "per_user.parquet")
            write_record(folder, {"arm": arm, "seed": seed, "key": f"{arm}{seed}"})
            folders.setdefault(arm, []).append(str(folder))
    return folders


def write_record(folder: Path, names: dict, **parts: str) -> None:
    protocol = {"data": "aa", "split": "bb", "candidates": "items of training: all"} | parts
    record = names | {"status": "done", "protocol": protocol, "fingerprint": digest(protocol)}
    record |= {"split": {"rule": {"name": "UserTime", "test": 0.1}}, "metrics": {}, "parameters": {"trainable": 1}}
    record |= {"seconds": {"train": 1.0, "total": 2.0}, "peak_memory_mb": 1}
    (folder / "record.json").write_text(json.dumps(record))


def test_finished_runs(
    runs: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = ",".join(runs["ids"] + runs["text"])
    assert call("compare", f"runs=[{folders}]", "resamples=200", "--json") == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["seeds"], answer["users"]) == ([1, 2, 3], 200)
    report = Path(answer["report"])
    assert "text is not distinguishable from ids" in report.read_text()
    (kept,) = json.loads((report.parent / "comparison.json").read_text())["protocols"].values()
    assert kept["arms"] == answer["arms"]
    page = (report.parent / "report.html").read_text()
    assert "Users who gain and lose" in page
    assert "needs the run folders" not in page
    assert call("report", report.parent.name, "--json") == 0
    assert (report.parent / "report.html").read_text() == page
    capfd.readouterr()
    write_record(Path(runs["text"][0]), {"arm": "text", "seed": 1, "key": "text1"}, candidates="all items: all")
    assert call("compare", f"runs=[{folders}]", "resamples=200") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "candidates differ (items of training: all against all items: all): train both with the same split" in line
    assert call("compare", f"runs=[{folders}]", "resamples=200", "--force") == 0
    shown = capfd.readouterr().out
    assert shown.count("NOT COMPARABLE: ") == 4
    assert "report runs/comparison-" in shown


def test_power(runs: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("power", "--runs", *runs["ids"], *runs["text"], "--effect", "0.01", "--json") == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["components"]["noise_sd"] == pytest.approx(0.05 * 2**0.5, rel=0.1)
    assert plan["runs"]["users"] == 200
    deviations = ("--user_sd", "0.05", "--seed_sd", "0.003", "--noise_sd", "0.1")
    assert call("power", *deviations, "--effect", "0.005", "--seeds", "1", "3", "10") == 0
    shown = capfd.readouterr().out
    assert "out of reach: seed variance alone is too large" in shown
    assert "1 seed: what is found holds for that seed alone" in shown
    assert call("power", "--user_sd", "0.05") == 2
    assert "name runs of two arms" in capfd.readouterr().err
    assert call("power", *deviations, "effect=0") == 2
    assert "effect=0.0: it must be above 0" in capfd.readouterr().err
