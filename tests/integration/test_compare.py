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

import pytest

STUDY = """
question: Does text help on synthetic data?
metric: ndcg@10
smallest_effect: 0.01
baseline: ids
seeds: [1, 2]
protocols: {warm: [split=user_time], cold: [split=cold_item]}
shared: [dataset=synthetic, trainer.max_epochs=12, optimizer.lr=0.03, batch_size=256, model.factor_l2=0.01]
arms:
  popularity: [baseline=bias]
  ids: [fields=ids]
  text: [backbone=tiny]
  lora:
    init_from: text
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
    assert (study / "experiments/demo/report.md").read_text() == report
    assert str(study) not in (study / "experiments/demo/results/cold.json").read_text()
    started = time.perf_counter()
    assert (
        subprocess.run(command(), cwd=study, env=environment(study), capture_output=True, check=False).returncode == 0
    )
    assert time.perf_counter() - started < 20


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
        (("init_from: text", "init_from: lora"), "which is no arm before it"),
        (("seeds: [1, 2]", "seed: 1"), "missing keys ['seeds'], unknown keys ['seed']"),
        (("ids: [fields=ids]", "ids: [fields=idz]"), "fields=idz: no such option; did you mean 'ids'?"),
    ],
)  # fmt: skip
def test_mistakes_in_a_study(study: Path, change: tuple[str, str], message: str) -> None:
    (study / "experiments/demo/study.yaml").write_text(STUDY.replace(*change))
    result = subprocess.run(command(), cwd=study, env=environment(study), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert message in result.stderr
