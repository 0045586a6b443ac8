"""The store of runs as its commands show it: filters, order, export, removal, import, a live run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from filelock import FileLock
from omegaconf import DictConfig

from factorlm.cli import main
from factorlm.commands.train import train

Compose = Callable[..., DictConfig]
Factorlm = Callable[..., str]


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four runs: machines with two seeds, a baseline, and one that failed."""
    from factorlm.config.compose import compose_config

    root = tmp_path_factory.mktemp("store") / "runs"
    shared = ["dataset=synthetic", "tracking=none", "trainer.max_epochs=2", "batch_size=256", f"cache={cache}"]
    for extra in (["arm=fm", "seed=1"], ["arm=fm", "seed=2"], ["arm=bias", "baseline=bias", "study=demo/warm"]):
        train(compose_config("train", [*shared, f"run.root={root}", *extra]), progress=False)
    with pytest.raises(ValueError, match=r"selection|nothing"):
        train(compose_config("train", [*shared, f"run.root={root}", "arm=bad", "selection=nothing@3"]), progress=False)
    return root


@pytest.fixture
def store(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store, in the working folder."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def factorlm(capfd: pytest.CaptureFixture) -> Factorlm:
    """Run a command in this process; what it prints, after its status is checked."""

    def run(*arguments: str, status: int = 0) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["runs", *arguments])
        printed = capfd.readouterr()
        assert int(caught.value.code or 0) == status, printed.err
        if status:
            assert (printed.out, printed.err.count("\n")) == ("", 1)
        return printed.err if status else printed.out

    return run


def arms(printed: str) -> list[str]:
    return sorted(run["arm"] + str(run["seed"]) for run in json.loads(printed))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], ["bad1", "bias1", "fm1", "fm2"]),
        (["status=done", "seed=1"], ["bias1", "fm1"]),
        (["status!=done"], ["bad1"]),
        (["study=demo"], ["bias1"]),
        (["study=dem"], []),
        (["head=fm", "baseline=none", "status=done"], ["fm1", "fm2"]),
        (["baseline=bias"], ["bias1"]),
        (["backbone=none", "fields=ids", "dataset=synthetic", "split=user_time", "arm=fm", "seed=2"], ["fm2"]),
        (["trainer.max_epochs>=2", "trainer.max_epochs<3", "model.compile=false", "arm=fm"], ["fm1", "fm2"]),
        (["init_from=null", "ndcg>0", "ndcg@10<=1", "valid/ndcg@5!=7"], ["bias1", "fm1", "fm2"]),
        (["started>2020-01-01", "test>0", "arm=bias"], ["bias1"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_filters(store: Path, factorlm: Factorlm, filters: list[str], expected: list[str]) -> None:
    assert arms(factorlm(*filters, "--json")) == expected


def test_order_and_columns(store: Path, factorlm: Factorlm) -> None:
    runs = json.loads(factorlm("--sort", "-ndcg", "--json"))
    values = [run["metrics"].get("test/ndcg@10") for run in runs]
    assert values == [*sorted(values[:3], reverse=True), None]  # without a value: last
    head, *rows = factorlm("--sort", "ndcg", "trainer.max_epochs=2").splitlines()
    assert head.split()[:7] == ["status", "valid", "test", "metric", "seconds", "trainer.max_epochs", "ndcg"]
    assert (len(rows), rows[0].split()[5]) == (4, "2")
    key = json.loads(factorlm("arm=bias", "--json"))[0]["key"]
    shown = factorlm("arm=bias").split()[-1]  # as the table has it
    for name in (key[:6], shown, f"runs/{shown}", Path(shown).name, str(store / shown)):
        assert arms(factorlm(name, "--json")) == ["bias1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ndgc>0.1"], "ndgc: no run under runs has it; did you mean 'ndcg'?"),
        (["ndcg>abc"], "ndcg>abc: 'abc' is no number, as ndcg is"),
        (["model.num_factor=8"], "did you mean 'model.num_factors'?"),
        (["head=deepfn"], "head=deepfn: no such option; did you mean 'deepfm'?"),
        (["--sort", "nonsense"], "nonsense: no run under runs has it"),
        (["delte", "seed=1"], "runs delte: no such verb; did you mean 'delete'?"),
        (["nothing"], "nothing: no such run under runs"),
        (["diff", "one"], "runs diff takes two runs"),
        (["tail"], "runs tail takes one run"),
        (["export", "out.xls"], "a file that ends in .parquet or .csv"),
        (["export", "none/out.csv"], "there is no folder none"),
        (["delete"], "runs delete takes filters or runs"),
        (["import"], "runs import takes folders"),
        (["import", "empty"], "empty holds no run"),
        (["--srot", "seed"], "--srot: no such option; did you mean --sort?"),
        (["${x}=1"], "${x}: no run under runs has it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(store: Path, factorlm: Factorlm, arguments: list[str], message: str) -> None:
    assert message in factorlm(*arguments, status=2)


def test_diff(store: Path, factorlm: Factorlm) -> None:
    one, two = (run["folder"] for run in json.loads(factorlm("arm=fm", "--json")))
    differing = json.loads(factorlm("diff", one, two, "--json"))
    assert differing["seed"] == [1, 2]
    assert all(key == "seed" or key.startswith("test/") for key in differing)
    assert factorlm("diff", one, two).splitlines()[1].split() == ["seed", "1", "2"]
    assert "no difference" in factorlm("diff", one, one)


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_export(store: Path, factorlm: Factorlm, name: str) -> None:
    assert factorlm("export", name, "status=done").startswith("3 runs")
    table = pl.read_parquet(name) if name.endswith("parquet") else pl.read_csv(name)
    record = json.loads((Path(table["folder"][0]) / "record.json").read_text())
    assert table["test/ndcg@10"][0] == record["metrics"]["test/ndcg@10"]
    assert table["config.model.num_factors"].to_list() == [64] * 3
    assert table["arm"].to_list() == ["fm", "fm", "bias"]


def test_removal_spares_what_is_not_ours_or_runs(store: Path, factorlm: Factorlm) -> None:
    one, two = (Path(run["folder"]) for run in json.loads(factorlm("arm=fm", "--json")))
    assert "nobody is there: add --yes" in run_and_fail(factorlm, "delete", "arm=fm")
    (one / "notes.txt").write_text("mine")
    (two / "outside").symlink_to(store.parent)
    shown = factorlm("delete", "arm=fm", "--yes")
    assert "removed 2 runs" in shown
    assert "notes.txt" in shown
    assert [path.name for path in one.iterdir() if path.name != ".lock"] == ["notes.txt"]
    assert [path.name for path in two.iterdir() if path.name != ".lock"] == ["outside"]
    assert arms(factorlm("--json")) == ["bad1", "bias1"]
    (left,) = json.loads(factorlm("arm=bias", "--json"))
    record = Path(left["folder"]) / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "running"}))
    with FileLock(Path(left["folder"]) / ".lock"):
        assert "is running: stop it first" in run_and_fail(factorlm, "delete", "arm=bias", "--yes")
    assert "killed" in factorlm("arm=bias")
    factorlm("delete", "arm=bias", "--yes")
    assert not (store / "demo/warm").exists()
    assert (store.parent / "runs").exists()


def run_and_fail(factorlm: Factorlm, *arguments: str) -> str:
    """The message of a command that shows runs before it refuses."""
    result = subprocess.run(
        [sys.executable, "-m", "factorlm", "runs", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    return result.stderr


def test_an_interrupted_removal_leaves_no_finished_run(
    store: Path, factorlm: Factorlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factorlm.runs.removal.shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit):
        main(["runs", "delete", "arm=fm", "seed=1", "--yes"])
    monkeypatch.undo()
    monkeypatch.chdir(store.parent)
    assert json.loads(factorlm("arm=fm", "seed=1", "--json"))[0]["status"] == "deleted"
    assert "removed 1 run" in factorlm("delete", "status=deleted", "--yes")


def test_import(store: Path, factorlm: Factorlm) -> None:
    factorlm("delete", "arm=bad", "--yes")
    shutil.move(store, "theirs")
    assert len(factorlm("import", "theirs").splitlines()) == 3
    assert arms(factorlm("--json")) == ["bias1", "fm1", "fm2"]
    assert sorted(path.name for path in store.glob("*")) == [".index.sqlite", "adhoc", "demo"]
    copied = next(store.glob("adhoc/fm-seed1-*"))
    assert (copied / "checkpoint/model.safetensors").exists()
    assert json.loads((copied / "record.json").read_text())["imported"] is True
    assert "exists: remove it first" in factorlm("import", "theirs", status=2)


def spoil(folder: Path, name: str, value: object) -> None:
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "edited": (lambda run: spoil(run, "protocol", {"data": "other"}), "the record was edited"),
    "unfinished": (lambda run: spoil(run, "status", "running"), "only finished runs"),
    "schema": (lambda run: spoil(run, "schema", 99), "not a record of schema 1"),
    "outside": (lambda run: spoil(run, "study", "../elsewhere"), "is no name of a folder"),
    "absolute": (lambda run: spoil(run, "study", "/tmp"), "is no name of a folder"),
    "types": (lambda run: spoil(run, "metrics", [1]), "is no dict"),
    "garbage": (lambda run: (run / "record.json").write_text("{"), "not a record of schema 1"),
    "pickle": (lambda run: (run / "checkpoint/state.pt").write_bytes(b"\x80\x04."), "is not safetensors"),
    "weights": (lambda run: (run / "checkpoint/model.safetensors").write_bytes(b"?" * 99), "is no safetensors file"),
    "table": (lambda run: (run / "topk.parquet").write_bytes(b"PAR1"), "is no parquet file"),
    "no table": (lambda run: (run / "per_user.parquet").unlink(), "is missing"),
    "link": (lambda run: (run / "checkpoint/x.safetensors").symlink_to("/etc/hostname"), "leaves the run folder"),
    "config": (lambda run: (run / "config.yaml").write_text("!!python/object/apply:os.getcwd []"), "cannot be read"),
    "aliases": (lambda run: (run / "config.yaml").write_text("a: &a [x]\nb: [*a, *a]"), "it refers to itself"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_import_refuses(store: Path, factorlm: Factorlm, name: str) -> None:
    shutil.rmtree(next(store.glob("adhoc/bad-*")))
    shutil.move(store, "theirs")
    change, message = FOREIGN[name]
    change(next(Path("theirs").glob("adhoc/fm-seed1-*")))
    assert message in factorlm("import", "theirs", status=2)
    assert not store.exists()  # nothing of it was copied


@pytest.mark.slow
def test_tail_follows_a_run(tmp_path: Path) -> None:
    environment = {**os.environ, "FACTORLM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "factorlm"]
    training = subprocess.Popen(
        [*command, "train", "dataset=synthetic", "tracking=none", "trainer.max_epochs=6", "patience=9",
         "run.dir=runs/a"],
        cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "runs/a/config.yaml").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    tail = subprocess.run(
        [*command, "runs", "tail", "a"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=90
    )
    assert training.wait(5) == 0  # it ended first
    lines = tail.stdout.splitlines()
    assert lines[-1] == "done"
    assert [line.split("  ")[0] for line in lines[:-1]] == [f"epoch {number}" for number in range(6)]
    assert "valid/ndcg@10 0." in lines[0]


def test_config_files_of_options_are_recognised() -> None:
    from factorlm.config.options import option_of, options

    for group in ("head", "backbone", "split", "encoder", "objective", "optimizer", "candidates", "baseline", "fields"):
        for name, content in options(group).items():
            part = content if isinstance(content, dict) and group not in content else None
            found = option_of(group, part)
            assert found == name or yaml.safe_dump(options(group)[found]) == yaml.safe_dump(content), (group, name)
