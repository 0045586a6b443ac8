"""A published study: trained anew against its record, and packed for a supplement."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from factorlm.cli import main

pytestmark = pytest.mark.slow
STUDY = """
question: Does text help on synthetic data?
metric: ndcg@10
smallest_effect: 0.01
baseline: ids
seeds: [1, 2]
protocols: {warm: [split=user_time]}
shared: [dataset=synthetic, trainer.max_epochs=2, batch_size=256, "dataset.text='{title}'"]
arms:
  popularity: [baseline=bias]
  ids: [fields=ids]
"""
Factorlm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a study that was compared and published."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "experiments/demo").mkdir(parents=True)
    (folder / "experiments/demo/study.yaml").write_text(STUDY)
    (folder / "experiments/demo/README.md").write_text("# Demo\n")
    done = call(folder, "compare", "demo", "tracking=none", "resamples=200", "publish=true", f"run.root={folder}/runs")
    assert done.returncode == 0, done.stderr
    return folder


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "factorlm", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "FACTORLM_CACHE": str(folder / "cache")},
    )  # fmt: skip


@pytest.fixture
def results(published: Path) -> Iterator[Path]:
    """The study's record, which a test may change."""
    path = published / "experiments/demo/results/warm.json"
    before = path.read_text()
    yield path
    path.write_text(before)


def change(path: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_study_is_reproduced(published: Path, results: Path) -> None:
    result = call(published, "reproduce", "experiments/demo", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["equal"] == answer["numbers"] > 4 * 60
    assert answer["differing"] == 0
    assert not any("not judged" in note for note in answer["notes"])
    assert len(list((published / "reproduced/demo/warm").glob("*/record.json"))) == 4  # trained anew, elsewhere
    numbers = json.loads((published / answer["file"]).read_text())["all"]
    assert {"effect difference", "test/ndcg@10 seed 2", "fingerprint seed 1"} <= {number["name"] for number in numbers}

    change(results, lambda content: content["runs"][0]["metrics"].update({"test/ndcg@10": 0.5}))
    result = call(published, "reproduce", "demo")
    assert result.returncode == 3
    assert "test/ndcg@10 seed 1: recorded 0.5, now 0." in result.stderr
    assert "not reproduced" in result.stdout

    true = {(number["arm"], number["name"]): number["found"] for number in numbers}

    def elsewhere(content: dict) -> None:
        deviation = content["arms"]["ids"]["metrics"]["test/ndcg@10"]["sd"]
        for run in content["runs"]:
            run["hardware"]["cpu"], run["versions"]["torch"], run["code"] = "another", "1.0", "older"
            moved = 0.5 * deviation if run["arm"] == "ids" else 0
            run["metrics"]["test/ndcg@10"] = true[run["arm"], f"test/ndcg@10 seed {run['seed']}"] + moved

    change(results, elsewhere)
    result = call(published, "reproduce", "demo", "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["equal"] == answer["numbers"] - 2
    for note in ("the processor was another", "torch was 1.0", "code was older", "not judged"):
        assert any(note in found for found in answer["notes"])
    change(results, lambda content: content["runs"][0]["metrics"].update({"test/mrr@10": 0.9}))  # of one without seeds
    assert call(published, "reproduce", "demo", "arms=[popularity]", "seeds=[1]").returncode == 3
    assert call(published, "reproduce", "demo", "arms=[ids]", "seeds=[1]").returncode == 0


def test_mistakes(
    published: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def message(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        printed = capfd.readouterr()
        assert (caught.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
        return printed.err

    monkeypatch.chdir(published)
    assert "arms=idz: the study has popularity, ids; did you mean 'ids'?" in message("reproduce", "demo", "arms=[idz]")
    assert "seeds=7: the study has 1, 2" in message("reproduce", "demo", "seeds=[7]")
    results.write_text("{")
    assert "warm.json is no record of a study" in message("reproduce", "demo")
    results.write_text("{}")
    assert "it lacks arms, runs, seeds" in message("reproduce", "demo")
    results.unlink()
    assert "warm.json is missing: publish it" in message("reproduce", "demo")
    assert "name a published study" in message("reproduce")
    assert "nowhere/demo/comparison.json is missing" in message("export", "demo", "run.root=nowhere")
    assert "name a file that ends in .zip" in message("export", "demo", "out=demo.tar")


def test_a_supplement_repeats_the_comparison_and_holds_no_data(published: Path, tmp_path: Path) -> None:
    result = call(published, "export", "demo", "out=one.zip")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "one.zip"
    folder = unpacked(published / "one.zip", tmp_path)
    call(published, "export", "experiments/demo", f"out={tmp_path}/again/one.zip")
    (tmp_path / "again").mkdir()
    assert call(published, "export", "experiments/demo", f"out={tmp_path}/again/one.zip").returncode == 0
    assert (tmp_path / "again/one.zip").read_bytes() == (published / "one.zip").read_bytes()
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    (plotly,) = (name for name in names if name.startswith("assets/plotly-"))
    assert f'<script src="{plotly}"' in (folder / "report.html").read_text()
    assert {
        "study.yaml",
        "README.md",
        "ABOUT.md",
        "report.md",
        "report.tex",
        "comparison.json",
        "environment.txt",
    } <= names
    assert not any("topk" in name or "checkpoint" in name or "wandb" in name for name in names)

    runs = [f"runs/warm/{arm}-seed{seed}" for arm in ("ids", "popularity") for seed in (1, 2)]
    result = call(folder, "compare", f"runs=[{','.join(runs)}]", "resamples=200", "tracking=none", "--json")
    again = json.loads(result.stdout)["arms"]["popularity"]["effect"]
    effect = json.loads((folder / "comparison.json").read_text())["protocols"]["warm"]["arms"]["popularity"]["effect"]
    for name in ("difference", "low", "high", "p_value"):
        assert again[name] == pytest.approx(effect[name], rel=1e-9)

    texts = b"".join((folder / name).read_bytes() for name in names if not name.endswith(".parquet"))
    assert str(published).encode() not in texts
    tables = [pl.read_parquet(folder / run / "per_user.parquet") for run in runs]
    assert all(table["user_id"].to_list() == list(range(1, 201)) for table in tables)
    original = pl.read_parquet(next((published / "runs/demo/warm").glob("ids-seed1-*")) / "per_user.parquet")
    places = original.sort("user_id").with_columns(number=pl.int_range(1, 201))
    matches = (places["ndcg@10"] == tables[0]["ndcg@10"]).mean()
    assert matches < 0.9  # the order is another
    assert sorted(places["ndcg@10"]) == sorted(tables[0]["ndcg@10"])


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder / archive.stem


def test_attributes_are_left_out() -> None:
    from factorlm.reporting.supplement import _by_attribute, scrubbed

    kept = ("user_id", "train_interactions", "ndcg@10", "ndcg@10/tail", "ndcg@10/train_interactions=1-3")
    assert not any(map(_by_attribute, kept))
    assert _by_attribute("ndcg@10/gender=F")
    content = {"run": {"dir": "x"}, "dataset": {"path": "/home/me/clicks.csv", "k": 3, "more": ["~/a/b.csv", "c"]}}
    assert scrubbed(content, ["run"]) == {"dataset": {"path": "clicks.csv", "k": 3, "more": ["b.csv", "c"]}}


def test_a_missing_run_is_named(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "runs", tmp_path / "runs")
    comparison = tmp_path / "runs/demo/comparison.json"
    comparison.write_text(comparison.read_text().replace(str(published), str(tmp_path)))
    gone = next(tmp_path.glob("runs/demo/warm/ids-seed1-*"))
    shutil.rmtree(gone)
    result = call(published, "export", "demo", f"run.root={tmp_path}/runs")
    assert result.returncode == 2
    assert f"{gone} is gone" in result.stderr
