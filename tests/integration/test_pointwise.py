"""``task=pointwise`` from end to end, against scikit-learn on the rows that a run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import DictConfig
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, recall_score, roc_auc_score

from factorlm.cli import main
from factorlm.commands.evaluate import evaluate, evaluate_apart, open_run
from factorlm.commands.train import train
from factorlm.errors import UserError
from factorlm.evaluation.pointwise import row_task
from factorlm.runs.record import read_record

Compose = Callable[..., DictConfig]


def labelled(tmp_path: Path) -> list[str]:
    """A file of ratings, every user and item with a leaning; and the overrides that read it."""
    generator = np.random.default_rng(0)
    users, items = generator.normal(size=60), generator.normal(size=40)
    rows = []
    for user in range(60):
        for time, item in enumerate(generator.choice(40, 20, replace=False)):
            stars = np.clip(round(3 + users[user] + items[item] + generator.normal()), 1, 5)
            rows.append((f"u{user}", int(item), time, int(stars)))
    path = tmp_path / "ratings.csv"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "stars"], orient="row").write_csv(path)
    return ["dataset=files", f"dataset.interactions={path}", "dataset.columns.value=stars", "dataset.min_value=4"]


CASES = {
    "synthetic": ["trainer.max_epochs=6", "optimizer.lr=0.03"],
    "synthetic, bias": ["baseline=bias"],
    "ratings": ["ratings", "trainer.max_epochs=6", "optimizer.lr=0.03"],
    "ratings, bias": ["ratings", "baseline=bias"],
}


@pytest.mark.parametrize("name", CASES)
def test_metrics_are_those_of_the_rows(small: Compose, tmp_path: Path, name: str) -> None:
    data, *others = CASES[name] if CASES[name][0] == "ratings" else ["", *CASES[name]]
    config = small("task=pointwise", f"run.dir={tmp_path}/run", *others, *(labelled(tmp_path) if data else []))
    folder = train(config, progress=False)
    record = read_record(folder)
    assert record is not None
    metrics = {key.removeprefix("test/"): value for key, value in record["metrics"].items() if key.startswith("test/")}
    rows, per_user = (pl.read_parquet(folder / f"{table}.parquet") for table in ("rows", "per_user"))
    assert len(rows) == record["protocol"]["rows"]["test"]
    assert not (folder / "topk.parquet").exists()
    labels, scores = rows["label"].to_numpy(), rows["score"].to_numpy()
    assert 0.2 < labels.mean() < 0.8

    assert metrics["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert rows["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-scores.astype(np.float64))), abs=1e-15)
    assert metrics["logloss"] == pytest.approx(log_loss(labels, rows["probability"]), abs=1e-9)

    own = {
        user: (roc_auc_score(table["label"], table["score"]), len(table), table["label"].sum())
        for (user,), table in rows.group_by("user_id")
        if table["label"].n_unique() == 2
    }
    values, sizes, positives = (np.array(column, float) for column in zip(*own.values(), strict=True))
    assert metrics["uauc"] == pytest.approx(values.mean(), abs=1e-12)
    assert metrics["uauc_rows"] == pytest.approx(np.average(values, weights=sizes), abs=1e-12)
    assert metrics["uauc_positives"] == pytest.approx(np.average(values, weights=positives), abs=1e-12)
    assert metrics["uauc_users"] == len(own)
    assert metrics["uauc_dropped"] == rows["user_id"].n_unique() - len(own) == per_user["uauc"].null_count()
    for user, value in per_user.select("user_id", "uauc").drop_nulls().iter_rows():
        assert value == pytest.approx(own[user][0], abs=1e-12)

    called = rows["probability"].to_numpy() >= metrics["threshold"]
    for key, reference in (
        ("precision", precision_score), ("recall", recall_score), ("f1", f1_score), ("accuracy", accuracy_score),
    ):  # fmt: skip
        assert metrics[key] == pytest.approx(reference(labels, called), abs=1e-12), key
    for key in set(per_user.columns) - {"user_id", "train_interactions"}:
        assert per_user[key].mean() == pytest.approx(metrics[key], abs=1e-9), key
    assert {"auc", "uauc", "logloss", "f1"} < set(per_user.columns)

    if name != "synthetic":  # where negatives are drawn at random
        assert metrics["auc"] > 0.55
    assert evaluate(folder, "test", config.cache) == {f"test/{key}": value for key, value in metrics.items()}


def test_the_threshold_is_chosen_on_validation_only(small: Compose, tmp_path: Path) -> None:
    config = small("task=pointwise", "baseline=bias", *labelled(tmp_path))
    from factorlm.config.build import cache_dir, make_data
    from factorlm.config.evaluator import make_evaluator
    from factorlm.config.model import make_model
    from factorlm.data.prepared import load_prepared, prepare

    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    evaluator, model = make_evaluator(config, prepared), make_model(config, prepared)
    valid, test = (evaluator.evaluate(model, part) for part in ("valid", "test"))

    def best(rows: pl.DataFrame) -> float:
        levels = rows["probability"].unique().to_list()
        return max(levels, key=lambda level: (f1_score(rows["label"], rows["probability"] >= level), level))

    assert test.values["threshold"] == valid.values["threshold"] == pytest.approx(best(valid.table))
    assert best(test.table) != test.values["threshold"]
    labels = prepared.split.labels["test"]
    labels[:] = ~labels  # whatever test says, the threshold stays
    assert evaluator.evaluate(model, "test").values["threshold"] == valid.values["threshold"]


def test_two_pointwise_runs_are_compared(small: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = labelled(tmp_path)
    runs = [
        train(small("task=pointwise", f"run.dir={tmp_path}/{arm}", f"arm={arm}", *extra, *data), progress=False)
        for arm, extra in (("bias", ["baseline=bias"]), ("fm", ["optimizer.lr=0.03"]))
    ]
    for metric in ("auc", "uauc", "logloss"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            folders = ",".join(map(str, runs))
            main(["compare", f"runs=[{folders}]", f"metric={metric}", f"run.root={tmp_path}", "--json"])
        out, err = capsys.readouterr()
        assert stop.value.code == 0, err
        found = json.loads(out)
        one, two = (json.loads((run / "record.json").read_text())["metrics"][f"test/{metric}"] for run in runs)
        assert found["arms"]["fm"]["effect"]["difference"] == pytest.approx(two - one, abs=1e-9)
        assert found["users"] == pl.read_parquet(runs[0] / "per_user.parquet")[metric].count()


def test_rows_of_a_run_can_be_scored(small: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(small("task=pointwise", "baseline=bias", f"run.dir={tmp_path}/run"), progress=False)
    record = read_record(folder)
    assert record is not None
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["score", "--rows", str(folder / "rows.parquet"), "columns.score=probability", "--json"])
    assert stop.value.code == 0
    for name, value in json.loads(capsys.readouterr().out)["metrics"].items():
        assert value == pytest.approx(record["metrics"][f"test/{name}"], abs=1e-9), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=pointwise", "dataset.min_value=1"], r"all \d+ valid rows have label 1: task=pointwise needs both"),
        (["task=pointwise", "dataset.min_value=null"], r"has values other than 0 and 1 .*: set dataset.min_value"),
        (["dataset.negatives=keep"], "dataset.negatives=keep is for task=pointwise: rank with dataset.negatives=drop"),
        (["task=pointwise", "selection=ndcg@10"], "selection=ndcg@10: weights can be selected by auc"),
    ],
)  # fmt: skip
def test_mistakes(small: Compose, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(small(*labelled(tmp_path), *overrides), progress=False)


@pytest.fixture
def apart(tmp_path: Path) -> tuple[list[str], Path]:
    """Overrides of a fixed split, and a file of test rows that it has not; a user and an item of them are new."""
    labelled(tmp_path)
    rows = pl.read_csv(tmp_path / "ratings.csv").sort("timestamp", "user_id")
    hidden = rows[-100:].vstack(rows[-1:].with_columns(user_id=pl.lit("a"), item_id=pl.lit(99, pl.Int64)))
    parts = {"train": rows[:-300], "valid": rows[-300:-200], "test": rows[-200:-100], "hidden": hidden}
    for name, part in parts.items():
        part.write_csv(tmp_path / f"{name}.csv")
    known = [f"{tmp_path}/{name}.csv" for name in ("train", "valid", "test")]
    overrides = ["dataset=files", f"dataset.interactions=[{','.join(known)}]", "dataset.columns.value=stars",
                 "dataset.min_value=4", "task=pointwise", "split=fixed", f"split.train={known[0]}",
                 f"split.valid={known[1]}", "split.test=null", "split.cold_users=keep",
                 "split.cold_items=keep", "dataset.text='film {item_id}'"]  # fmt: skip
    return overrides, tmp_path / "hidden.csv"


PROMPT = pytest.param(
    "backbone=tiny backbone.max_seq_len=4096 prompt=liked shots=16 adapter=lora adapter.num_layers=1 batch_size=8 "
    "optimizer.lr=0.1",
    marks=pytest.mark.slow,
)


@pytest.mark.parametrize("arm", ["baseline=bias", "backbone=tiny", "encoder=gru", PROMPT])
def test_rows_kept_apart_score_as_if_they_had_been_there(
    small: Compose, tmp_path: Path, apart: tuple[list[str], Path], arm: str
) -> None:
    overrides, hidden = apart
    folder = train(small(*overrides, *arm.split(), f"run.dir={tmp_path}/run"), progress=False)
    known = pl.read_parquet(folder / "rows.parquet")
    metrics = evaluate_apart(folder, str(small().cache), str(hidden))
    scored = pl.read_parquet(next((folder / "apart").glob("*/rows.parquet")))
    assert len(scored) == 101
    assert metrics["test/auc"] == pytest.approx(roc_auc_score(scored["label"], scored["score"]), abs=1e-12)
    evaluate_apart(folder, str(small().cache), str(tmp_path / "test.csv"))  # the run's own test rows
    again = [pl.read_parquet(path) for path in (folder / "apart").glob("*/rows.parquet")]
    again = next(table for table in again if len(table) == 100)
    keys = ["user_id", "item_id"]
    both = known.join(again, on=keys, suffix="_again")
    assert len(both) == 100
    assert both["score"].to_numpy() == pytest.approx(both["score_again"].to_numpy(), abs=1e-6)


def test_rows_kept_apart_are_refused_where_they_do_not_fit(
    small: Compose, tmp_path: Path, apart: tuple[list[str], Path]
) -> None:
    overrides, hidden = apart
    folder = train(small("task=pointwise", "baseline=bias", f"run.dir={tmp_path}/other"), progress=False)
    with pytest.raises(UserError, match="split=fixed"):
        evaluate_apart(folder, str(small().cache), str(hidden))
    folder = train(small(*overrides, "baseline=bias", f"run.dir={tmp_path}/run"), progress=False)
    with pytest.raises(UserError, match="also listed for another part"):
        evaluate_apart(folder, str(small().cache), str(tmp_path / "train.csv"))


def test_a_stack_weighs_what_it_was_fitted_on_validation(
    small: Compose, tmp_path: Path, apart: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides, hidden = apart
    runs = [
        train(small(*overrides, *arm, f"run.dir={tmp_path}/{name}"), progress=False)
        for name, arm in {"bias": ["baseline=bias"], "fm": ["optimizer.lr=0.03", "trainer.max_epochs=3"]}.items()
    ]
    stack = small(*overrides, "baseline=stack", f"baseline.runs=[{runs[0]},{runs[1]}]", f"run.dir={tmp_path}/stack")
    folder = train(stack, progress=False)
    cache = str(small().cache)
    models = [open_run(run, cache) for run in (*runs, folder)]
    task = row_task(models[0].prepared, "valid")
    with torch.no_grad():
        scores = [run.model.catalogue(task.contexts, task.items).pairs(task.places, task.item_places) for run in models]
    oracle = LogisticRegression(C=1e9, tol=1e-10).fit(torch.stack(scores[:2], 1), task.labels)
    expected = oracle.decision_function(torch.stack(scores[:2], 1))
    np.testing.assert_allclose(scores[2], expected, rtol=1e-4, atol=1e-4)
    weights = models[2].model.weights.numpy()
    np.testing.assert_allclose(weights, oracle.coef_[0], rtol=1e-3)
    with monkeypatch.context() as patch:
        patch.setattr("factorlm.config.model.Stack.fit", lambda *_: pytest.fail("fitted, and scored, again"))
        for run in (*runs, folder):
            evaluate_apart(run, cache, str(hidden))
    rows = [
        pl.read_parquet(next((run / "apart").glob("*/rows.parquet")))["score"].to_numpy() for run in (*runs, folder)
    ]
    np.testing.assert_allclose(rows[2], weights @ rows[:2] + float(models[2].model.offset), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="a stack takes two finished runs or more"):
        train(small(*overrides, "baseline=stack", f"run.dir={tmp_path}/none"), progress=False)
    ranking = train(small(f"run.dir={tmp_path}/ranking", "trainer.max_epochs=1"), progress=False)
    with pytest.raises(UserError, match="was trained on other rows"):
        train(
            small(*overrides, "baseline=stack", f"baseline.runs=[{runs[0]},{ranking}]", f"run.dir={tmp_path}/other"),
            progress=False,
        )


@pytest.mark.slow
def test_a_study_is_scored_on_rows_kept_apart(
    tmp_path: Path, apart: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, hidden = apart
    study = {"question": "?", "metric": "auc", "smallest_effect": 0.01, "baseline": "bias", "seeds": [1, 2],
             "protocols": {"fixed": overrides}, "shared": ["trainer.max_epochs=1"],
             "arms": {"bias": ["baseline=bias"], "bayes": ["baseline=bayesian_fm"], "stack": {
                 "runs": {"baseline.runs": ["bias", "bayes"]}, "overrides": ["baseline=stack"]}}}  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/study.yaml").write_text(json.dumps(study))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "study=mine", "studies=.", f"fixed.test={hidden}", "tracking=none", f"cache={tmp_path}/cache",
              "jobs=1", "--json"])  # fmt: skip
    assert not ended.value.code
    answer = json.loads(capsys.readouterr().out)
    runs = [
        json.loads(path.read_text())["test/auc"] for path in tmp_path.glob("runs/mine/fixed/bayes-*/apart/*/*.json")
    ]
    assert len(runs) == 2
    assert answer["arms"]["bayes"]["auc"] == pytest.approx(sum(runs) / 2)
    assert set(answer["arms"]) == {"bias", "bayes", "stack"}
