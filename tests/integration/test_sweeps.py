"""Sweeps as a user meets them: what is tried, what fails, what is stopped early, and what a repeated command does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from factorlm.cli import main
from factorlm.commands.processes import begin
from factorlm.commands.trials import _read
from factorlm.runs.store import claim

FAST = [
    "dataset=synthetic", "trainer.max_epochs=2", "batch_size=256", "model.num_factors=8", "tracking=none",
    "hydra/sweeper=optuna",
]  # fmt: skip


@pytest.fixture
def sweep(cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a sweep in this process; its exit status, and both streams."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["train", *FAST, f"cache={cache}", f"run.root={tmp_path}/runs", *arguments])
        out, error = capfd.readouterr()
        return int(stop.value.code or 0), out, error

    return run


def table(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(out.splitlines()[-1]) / "sweep.json").read_text())
    return found


@pytest.mark.slow
def test_a_failing_trial_is_noted_and_a_repeated_command_trains_nothing(sweep: Any) -> None:
    arguments = ["hydra.sweeper.sampler=grid", "hydra.sweeper.n_jobs=2", "optimizer.lr=0.01,1e30", "seed=1,2"]
    code, out, _ = sweep(*arguments)
    assert code == 0
    found = table(out)
    assert [trial["params"] for trial in found["trials"]] == [
        {"optimizer.lr": lr, "seed": seed} for lr in (0.01, 1e30) for seed in (1, 2)
    ]
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 2 + ["failed"] * 2
    assert "the loss is" in found["trials"][2]["error"]
    best = max(found["trials"][:2], key=lambda trial: trial["values"][0])
    assert f"best: trial {best['number']}, valid/ndcg@10 {best['values'][0]:.4f}" in out
    records = [Path(trial["folder"]) / "record.json" for trial in found["trials"]]
    assert json.loads(records[0].read_text())["metrics"]["valid/ndcg@10"] == found["trials"][0]["values"][0]
    before = [record.stat().st_mtime_ns for record in records]
    assert sweep(*arguments)[1] == out
    assert table(out) == found
    assert [record.stat().st_mtime_ns for record in records] == before


@pytest.mark.slow
def test_hopeless_trials_are_stopped(sweep: Any) -> None:
    rates = "0.05,0.051,0.052,0.053,0.054,0.00001"
    code, out, _ = sweep(
        "hydra.sweeper.sampler=grid", "hydra.sweeper.prune=true", f"optimizer.lr={rates}", "trainer.max_epochs=4"
    )
    assert code == 0
    found = table(out)
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 5 + ["pruned"]
    record = json.loads((Path(found["trials"][5]["folder"]) / "record.json").read_text())
    assert record["status"] == "pruned"
    assert "pruned after epoch 0" in record["error"]


@pytest.mark.slow
def test_quality_against_cost_from_a_starting_point(sweep: Any) -> None:
    code, out, _ = sweep(
        "hydra.sweeper.sampler=nsga2", "hydra.sweeper.cost=parameters", "hydra.sweeper.n_trials=3",
        "model.num_factors=4,8,16", 'hydra.sweeper.start=["model.num_factors=16"]',
    )  # fmt: skip
    assert code == 0
    found = table(out)
    assert found["directions"] == ["maximize", "minimize"]
    assert found["trials"][0]["params"] == {"model.num_factors": 16}
    assert all(len(trial["values"]) == 2 for trial in found["trials"])
    assert out.count("best: trial") >= 1


RANDOM = ["hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=1", "seed=1,2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1,2"], "hydra.sweeper.n_trials=null: only sampler=grid has an end of its own"),
        (["hydra.sweeper.n_trials=2"], "the search space is empty"),
        (
            [*RANDOM, "hydra.sweeper.sampler=cma"],
            "hydra.sweeper.sampler=cma: it must be one of tpe, random, grid, nsga2",
        ),
        ([*RANDOM, "hydra.sweeper.sampler=nsga2"], "weighs quality against a cost: set hydra.sweeper.cost=seconds"),
        ([*RANDOM, "hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs=0: it must be 1 or more"),
        ([*RANDOM, "hydra.sweeper.cost=seconds", "hydra.sweeper.prune=true"], "prune=true looks at one value"),
        ([*RANDOM, "modle.num_factors=1,2"], "modle.num_factors: no such key; did you mean 'model.num_factors'?"),
        ([*RANDOM, 'hydra.sweeper.start=["seed=7"]'], "hydra.sweeper.start[0]=seed=7: seed=7 is outside"),
        ([*RANDOM, "trainer.max_epochs=x"], "all 1 trials failed"),
    ],
)
def test_mistakes_are_one_line(sweep: Any, arguments: list[str], message: str) -> None:
    code, _, error = sweep(*arguments)
    assert code == 2
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error


def test_a_folder_holds_one_sweep_and_one_process(sweep: Any, tmp_path: Path) -> None:
    named = f"run.dir={tmp_path}/mine"
    assert sweep(*RANDOM, named)[0] == 0
    code, _, error = sweep(*RANDOM, "hydra.sweeper.seed=2", named)
    assert (code, "holds another sweep: it has seed=1, this one 2" in error) == (2, True)
    with claim(tmp_path / "mine", wait=False):
        code, _, error = sweep(*RANDOM, named)
    assert (code, "by another process" in error) == (2, True)


def test_a_process_that_dies_says_so() -> None:
    process, answer = begin(os._exit, 9)
    assert "exit code 9" in (_read(answer, process) or "")


@pytest.mark.slow
def test_the_definition_for_wandb(capsys: pytest.CaptureFixture[str]) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    with pytest.raises(SystemExit) as stop:
        main(["wandb-sweep", "sweep=fm", "task=pointwise", "hydra/sweeper=optuna", "hydra.sweeper.sampler=random"])
    assert not stop.value.code
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["method"] == "random"
    assert found["metric"] == {"name": "valid/auc", "goal": "maximize"}
    assert found["parameters"]["optimizer.lr"] == {"values": [0.003, 0.01]}
    assert found["command"][-1] == "${args_no_hyphens}"
    chosen = create_sweep_command_args({"args": {"optimizer.lr": {"value": 0.01}}})["args_no_hyphens"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *found["command"][2:-1], *chosen, "--cfg", "job"])
    assert not stop.value.code
    assert "lr: 0.01" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_trials(cache: Path, tmp_path: Path) -> None:
    def start(root: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "factorlm", "train", *FAST, "hydra.sweeper.n_trials=12", "hydra.sweeper.prune=true",
            "optimizer.lr=tag(log,interval(1e-4,1))", f"cache={cache}", f"run.root={root}",
        ]  # fmt: skip
        return subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)

    def trials(root: str) -> list[dict[str, Any]]:
        (path,) = (tmp_path / root).glob("adhoc/run-sweep-*/sweep.json")
        rows = json.loads(path.read_text())["trials"]
        return [{key: row[key] for key in ("number", "state", "params", "values")} for row in rows]

    assert start("whole").wait(120) == 0
    for ended in (1, 5, 8):
        process = start("killed")
        deadline = time.monotonic() + 60
        while sum(row["state"] != "running" for row in _rows(tmp_path / "killed")) < ended:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start("killed").wait(120) == 0
    assert trials("killed") == trials("whole")


def _rows(root: Path) -> list[dict[str, Any]]:
    rows = [json.loads(path.read_text())["trials"] for path in root.glob("adhoc/run-sweep-*/sweep.json")]
    return rows[0] if rows else []
