"""``factorlm score``: files of other systems in, JSON out; every mistake is one line and exit status 2."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from omegaconf import DictConfig
from sklearn.metrics import log_loss, roc_auc_score

from factorlm.cli import main
from factorlm.commands.train import train

KEYS = {"ndcg@10", "precision@10", "recall@10", "f1@10", "hit@10", "mrr@10", "map@10"}
QRELS = "1 0 10 1\n1 0 11 1\n2 0 12 1\n3 0 13 1\n"
RUN = "1 Q0 10 1 0.9 x\n1 Q0 99 2 0.8 x\n1 Q0 11 3 0.7 x\n1 Q0 97 4 0.6 x\n2 Q0 98 1 0.5 x\n2 Q0 12 2 0.5 x\n"

Score = Callable[..., dict[str, Any]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command in a folder of its own: exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["score", *arguments])
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def score(call: Callable[..., Any]) -> Score:
    """The JSON document of a call that succeeds."""

    def run(*arguments: str) -> dict[str, Any]:
        code, out, err = call(*arguments, "--json")
        assert code == 0, err
        document: dict[str, Any] = json.loads(out)
        return document

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "qrels.txt").write_text(QRELS)
    (tmp_path / "run.txt").write_text(RUN)
    return tmp_path


BASIC = ("--qrels", "qrels.txt", "--run", "run.txt")


def test_the_contract(files: Path, score: Score) -> None:
    found = score(*BASIC)
    assert set(found) == {"metrics", "users", "notes"}
    assert set(found["metrics"]) == KEYS
    assert found["users"] == 3
    second = 1 / math.log2(3)
    assert found["metrics"] == pytest.approx({
        # user 1 hits at ranks 1 and 3; user 2 at 1 or 2, with even chances; user 3 has no list
        "precision@10": (2 / 10 + 1 / 10) / 3,
        "recall@10": 2 / 3,
        "f1@10": (4 / 12 + 2 / 11) / 3,
        "hit@10": 2 / 3,
        "mrr@10": (1 + (1 + 1 / 2) / 2) / 3,
        "map@10": ((1 + 2 / 3) / 2 + (1 + 1 / 2) / 2) / 3,
        "ndcg@10": ((1 + 1 / 2) / (1 + second) + (1 + second) / 2) / 3,
    })  # fmt: skip
    assert found["notes"] == [
        "users of the qrels without a list: 1 of 3; they count 0",
        "lists shorter than 10: 2",
        "lists with ties within rank 10: 1; their values are expectations over random tie-breaks",
    ]


def as_table(trec: str, names: dict[int, str]) -> pl.DataFrame:
    lines = [line.split() for line in trec.splitlines()]
    return pl.DataFrame({name: [line[place] for line in lines] for place, name in names.items()})


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl"])
@pytest.mark.parametrize("ids", [pl.Int64, pl.Int32, pl.String])
def test_tables_give_what_trec_gives(files: Path, score: Score, kind: str, ids: pl.DataType) -> None:
    tables = {
        "qrels": as_table(QRELS, {0: "user_id", 2: "item_id", 3: "value"}).with_columns(pl.col("value").cast(pl.Int64)),
        "run": as_table(RUN, {0: "user_id", 2: "item_id", 4: "score"}).with_columns(pl.col("score").cast(pl.Float64)),
    }
    for name, table in tables.items():
        write = {"parquet": "write_parquet", "csv": "write_csv", "tsv": "write_csv", "jsonl": "write_ndjson"}[kind]
        separator = {"separator": "\t"} if kind == "tsv" else {}
        getattr(table.with_columns(pl.col("user_id", "item_id").cast(ids)), write)(f"{name}.{kind}", **separator)
    expected = score(*BASIC)
    assert score("--qrels", f"qrels.{kind}", "--run", f"run.{kind}") == expected
    assert score("--qrels", "qrels.txt", "--run", f"run.{kind}") == expected
    tables["qrels"].drop("value").write_csv("plain.csv")
    assert score("--qrels", "plain.csv", "--run", f"run.{kind}") == expected


def test_columns_by_other_names(files: Path, score: Score, call: Callable[..., Any]) -> None:
    as_table(QRELS, {0: "reader", 2: "book", 3: "stars"}).write_csv("q.csv")
    as_table(RUN, {0: "reader", 2: "book", 4: "logit"}).write_csv("r.csv")
    names = ["columns.user=reader", "columns.item=book", "columns.score=logit"]
    assert score("--qrels", "q.csv", "--run", "r.csv", *names) == score(*BASIC)
    assert score("--qrels", "q.csv", "--run", "r.csv", *names, "--columns.value", "stars") == score(*BASIC)
    code, _, err = call("--qrels", "q.csv", "--run", "r.csv", *names, "columns.value=stras")
    assert code == 2
    assert "columns.value=stras is not in q.csv; its columns are reader, book, stars; did you mean 'stars'?" in err


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace(" ", "  \t"),
        lambda text: text.replace("\n", " \t \n"),
        lambda text: "\n" + text.replace("\n", "\n\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: "\n".join(reversed(text.splitlines())),
    ],
)
def test_what_trec_files_look_like(files: Path, score: Score, spoil: Callable[[str], str]) -> None:
    expected = score(*BASIC)
    (files / "qrels.txt").write_bytes(spoil(QRELS).encode())
    (files / "run.txt").write_bytes(spoil(RUN).encode())
    assert score(*BASIC) == expected


def test_ids_of_any_spelling(files: Path, score: Score) -> None:
    (files / "qrels.txt").write_text("ünï 0 a=b,c 1\n007 0 x 1\n")
    (files / "run.txt").write_text("ünï Q0 a=b,c 1 2 x\n7 Q0 x 1 1 x\n007 Q0 x 1 1e-3 x\n")
    found = score(*BASIC)
    assert found["metrics"]["recall@10"] == 1
    assert "users of the run with nothing relevant in the qrels: 1; they are left out" in found["notes"]


def test_users_beyond_the_qrels_change_nothing(files: Path, score: Score) -> None:
    expected = score(*BASIC)
    (files / "run.txt").write_text(RUN + "4 Q0 10 1 0.5 x\n5 Q0 10 1 0.5 x\n")
    found = score(*BASIC)
    assert found["metrics"] == expected["metrics"]
    assert "users of the run with nothing relevant in the qrels: 2; they are left out" in found["notes"]


def test_all_tied_is_chance_and_scores_keep_their_digits(files: Path, score: Score) -> None:
    lines = "".join(f"1 0 {item} 1\n" for item in range(5))
    (files / "qrels.txt").write_text(lines)
    (files / "run.txt").write_text("".join(f"1 Q0 {item} 1 0.5 x\n" for item in range(100)))
    assert score(*BASIC)["metrics"]["precision@10"] == pytest.approx(0.05)
    close = [f"1 Q0 {item} 1 {1 + (100 - item) * 2e-16 * 4:.17g} x\n" for item in range(100)]
    (files / "run.txt").write_text("".join(close))  # equal in 32 bits
    assert score(*BASIC)["metrics"]["recall@10"] == 1


def test_grades(files: Path, score: Score) -> None:
    (files / "qrels.txt").write_text("1 0 10 2\n1 0 11 1\n1 0 98 0\n2 0 12 1\n3 0 13 0\n")
    found = score(*BASIC)
    assert set(found["metrics"]) == KEYS | {"rated_ndcg@10", "err@10"}
    assert found["users"] == 2  # the third has nothing relevant
    (files / "qrels.txt").write_text("1 0 10 1\n1 0 11 1\n2 0 12 1\n")
    binary = score(*BASIC)["metrics"]
    assert set(binary) == KEYS
    assert {name: found["metrics"][name] for name in KEYS} == binary
    ideal = 2 + 1 / math.log2(3)
    expected = ((2 + 1 / 2) / ideal + (1 + 1 / math.log2(3)) / 2) / 2
    assert found["metrics"]["rated_ndcg@10"] == pytest.approx(expected)
    assert found["metrics"]["err@10"] == pytest.approx(((3 / 4 + 1 / 4 * 1 / 4 / 3) + 1 / 4 * (1 + 1 / 2) / 2) / 2)
    (files / "qrels.txt").write_text("1 0 10 250\n1 0 11 3\n2 0 12 1\n")
    counts = score(*BASIC)
    assert set(counts["metrics"]) == KEYS
    assert counts["notes"][-1] == "values from 1 to 250 are no grades: rated_ndcg and err are left out"
    assert score(*BASIC, "--min_value", "3")["users"] == 1


def test_cutoffs(files: Path, score: Score) -> None:
    found = score(*BASIC, "--ks", "5", "10")["metrics"]
    assert set(found) == KEYS | {name.replace("10", "5") for name in KEYS}
    assert found["precision@5"] == 2 * found["precision@10"]


def test_options_in_any_order_and_file_names_of_any_kind(files: Path, score: Score) -> None:
    expected = score(*BASIC)
    (files / "q rels=1.txt").write_text(QRELS)
    (files / "lr=0.1, it's [1].txt").write_text(RUN)
    assert score("--run", "lr=0.1, it's [1].txt", "--qrels", "q rels=1.txt") == expected
    assert score("--run=run.txt", "--qrels=qrels.txt") == expected
    assert score("qrels=qrels.txt", "run=[run.txt]") == expected
    assert score("--qrels", "qrels.txt", "--run", "run.txt", "resamples=7", "out=here") == expected
    assert (files / "here" / "run.parquet").exists()


def test_several_runs_are_compared(files: Path, score: Score, call: Callable[..., Any]) -> None:
    users = range(30)
    (files / "qrels.txt").write_text("".join(f"{user} 0 a 1\n" for user in users))
    (files / "one.txt").write_text("".join(f"{u} Q0 a 1 {2 if u % 3 else 0.5} x\n{u} Q0 b 1 1 x\n" for u in users))
    (files / "two.txt").write_text("".join(f"{u} Q0 a 1 2 x\n{u} Q0 b 1 1 x\n" for u in users))
    both = ("--qrels", "qrels.txt", "--run", "one.txt", "two.txt")
    found = score(*both, "--out", "deep/here")
    assert list(found["runs"]) == ["one", "two"]
    for name in ("one", "two"):
        assert found["runs"][name] == score("--qrels", "qrels.txt", "--run", f"{name}.txt")
    assert found["comparison"]["baseline"] == "one"
    assert found["comparison"]["metric"] == "ndcg@10"
    effect = found["comparison"]["arms"]["two"]["effect"]
    metrics = {name: found["runs"][name]["metrics"]["ndcg@10"] for name in ("one", "two")}
    assert effect["difference"] == pytest.approx(metrics["two"] - metrics["one"])
    assert (effect["wins"], effect["losses"], effect["ties"]) == (10, 0, 20)
    assert score(*both, "--metric", "mrr@10")["comparison"]["metric"] == "mrr@10"
    assert score(*both, "--ks", "1")["comparison"]["metric"] == "ndcg@1"
    assert json.loads((files / "deep/here/scores.json").read_text()) == found
    per_user = pl.read_parquet("deep/here/one.parquet")
    assert set(per_user.columns) == {"user_id", *KEYS}
    assert per_user["ndcg@10"].mean() == pytest.approx(metrics["one"])
    code, out, err = call(*both)
    assert (code, err.count("\n")) == (0, 2)
    assert "two is better than one" in out
    assert f"ndcg@10      {metrics['one']:.4f} {metrics['two']:.4f}" in out
    assert "metric=recal@10 is not among those of one" in call(*both, "--metric", "recal@10")[2]


def test_files_of_one_name_in_two_folders(files: Path, score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (files / name).mkdir()
        (files / name / "run.txt").write_text(RUN)
    (files / "b" / "qrels.txt").write_text(QRELS)
    monkeypatch.chdir(files / "b")  # a bare name and one that leads out of the folder
    found = score("--qrels", "qrels.txt", "--run", "run.txt", "../a/run.txt", "--out", "out")
    assert list(found["runs"]) == ["b/run", "a/run"]
    assert sorted(str(path.relative_to(files)) for path in files.glob("**/*.parquet")) == [
        "b/out/a/run.parquet", "b/out/b/run.parquet",
    ]  # fmt: skip


def test_own_lists_score_as_they_did(
    small: Callable[..., DictConfig], files: Path, score: Score, tmp_path: Path
) -> None:
    config = small("run.dir=mine", "split.target=last")
    folder = train(config, progress=False)
    metrics = json.loads((folder / "record.json").read_text())["metrics"]
    from factorlm.config.build import cache_dir, make_data
    from factorlm.data.prepared import load_prepared, prepare

    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    users, items = (prepared.frames[side][f"{side}_id"] for side in ("user", "item"))
    wanted = {
        "user_id": users.gather(prepared.split.users["test"]),
        "item_id": items.gather(prepared.split.items["test"]),
    }
    pl.DataFrame(wanted).write_parquet("wanted.parquet")
    found = score("--qrels", "wanted.parquet", "--run", "mine/topk.parquet", "--ks", "5", "10", "20")["metrics"]
    assert found == pytest.approx({name: metrics[f"test/{name}"] for name in found}, abs=1e-12)


@pytest.fixture
def rows(files: Path) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    table = pl.DataFrame({
        "user_id": [f"u{number}" for number in generator.integers(0, 30, 300)],
        "item_id": generator.integers(0, 50, 300),
        "label": generator.integers(0, 2, 300),
    })  # fmt: skip
    noise = pl.Series(generator.normal(size=300))
    table = table.with_columns(score=(1 / (1 + (-(pl.col("label") - 0.5 + noise)).exp())).round(2))
    table.write_parquet(files / "rows.parquet")
    return table


def test_rows_of_probabilities(rows: pl.DataFrame, score: Score) -> None:
    found = score("--rows", "rows.parquet")
    values = found["metrics"]
    assert set(values) == {"auc", "uauc", "uauc_rows", "uauc_positives", "logloss", "calibration"}
    assert values["auc"] == pytest.approx(roc_auc_score(rows["label"], rows["score"]), abs=1e-12)
    assert values["logloss"] == pytest.approx(log_loss(rows["label"], rows["score"]), abs=1e-12)
    own = [
        roc_auc_score(table["label"], table["score"])
        for _, table in rows.group_by("user_id")
        if table["label"].n_unique() == 2
    ]
    assert values["uauc"] == pytest.approx(np.mean(own), abs=1e-12)
    assert found["users"] == rows["user_id"].n_unique()
    if len(own) < found["users"]:
        assert f"{found['users'] - len(own)} of {found['users']} users have rows of one class" in found["notes"][0]
    rows.sample(fraction=1, shuffle=True, seed=1).write_csv("mixed.csv")
    assert score("--rows", "mixed.csv")["metrics"] == pytest.approx(values, abs=1e-12)


def test_rows_at_a_threshold(rows: pl.DataFrame, score: Score, call: Callable[..., Any]) -> None:
    values = score("--rows", "rows.parquet", "--threshold", "0.6")["metrics"]
    called, label = rows["score"] >= 0.6, rows["label"] == 1
    assert values["precision"] == pytest.approx((called & label).sum() / called.sum())
    assert values["recall"] == pytest.approx((called & label).sum() / label.sum())
    assert values["accuracy"] == pytest.approx((called == label).mean())
    nothing = score("--rows", "rows.parquet", "--threshold", "1")["metrics"]
    assert nothing["recall"] == 0
    assert nothing["precision"] is None or nothing["precision"] == 0  # nobody is called positive
    code, _, err = call("--rows", "rows.parquet", "--threshold", "60")
    assert (code, err) == (2, "factorlm: threshold=60: it must be a probability, from 0 to 1\n")


def test_rows_of_logits(rows: pl.DataFrame, score: Score) -> None:
    probabilities = score("--rows", "rows.parquet")["metrics"]
    rows.with_columns(score=(pl.col("score") / (1 - pl.col("score"))).log()).write_parquet("logits.parquet")
    found = score("--rows", "logits.parquet", "--threshold", "0.5")
    assert set(found["metrics"]) == {"auc", "uauc", "uauc_rows", "uauc_positives"}
    assert found["metrics"] == pytest.approx({name: probabilities[name] for name in found["metrics"]})
    assert "scores are no probabilities: log loss, calibration and threshold metrics are left out" in found["notes"]


def test_rows_of_two_systems(rows: pl.DataFrame, score: Score, call: Callable[..., Any]) -> None:
    rows.with_columns(score=1 - pl.col("score")).write_parquet("worse.parquet")
    found = score("--rows", "rows.parquet", "worse.parquet")
    assert found["comparison"]["metric"] == "auc"
    values = {name: system["metrics"]["auc"] for name, system in found["runs"].items()}
    assert values["worse"] == pytest.approx(1 - values["rows"])
    effect = found["comparison"]["arms"]["worse"]["effect"]
    assert effect["difference"] == pytest.approx(values["worse"] - values["rows"], abs=1e-12)
    rows.with_columns(label=1 - pl.col("label")).write_parquet("other.parquet")
    rows.with_columns(user_id=pl.col("user_id").reverse()).write_parquet("moved.parquet")
    for name in ("other", "moved"):
        code, _, err = call("--rows", "rows.parquet", f"{name}.parquet")
        assert code == 2
        assert f"{name}.parquet has other users or labels than rows.parquet: score the same rows in one order" in err


TABLE = "user_id,item_id,score\n"
MISTAKES: dict[str, tuple[str, str, str]] = {
    "pair twice": ("run.txt", RUN + "1 Q0 10 7 0.1 x\n", "run.txt lists user 1 and item 10 more than once; 2"),
    "qrels twice": ("qrels.txt", QRELS + "1 0 10 2\n", "qrels.txt lists user 1 and item 10 more than once"),
    "nan": ("run.txt", "1 Q0 10 1 nan x\n", "run.txt: the score of row 1 (user 1) is nan; 1 such rows"),
    "inf": ("run.txt", RUN + "9 Q0 10 1 -inf x\n", "run.txt: the score of row 7 (user 9) is -inf"),
    "nan grade": ("qrels.txt", "1 0 10 nan\n", "qrels.txt: the value of row 1 (user 1) is nan"),
    "inf grade": ("qrels.txt", "1 0 10 inf\n", "qrels.txt: the value of row 1 (user 1) is inf"),
    "words": ("run.txt", "\n1 Q0 10 1 high x\n", "run.txt: line 2 has 'high' where a number must stand; 1 such lines"),
    "five fields": ("run.txt", RUN + "1 10 1 0.5 x\n", "run.txt: line 7 has 5 fields, not 6 (user Q0 item"),
    "qrels as run": ("run.txt", QRELS, "run.txt: line 1 has 4 fields, not 6"),
    "run as qrels": ("qrels.txt", RUN, "qrels.txt: line 1 has 6 fields, not 4 (user iteration item grade)"),
    "empty": ("run.txt", "", "run.txt is empty: lines are user Q0 item rank score tag"),
    "blank": ("qrels.txt", " \n\n", "qrels.txt is empty: lines are user iteration item grade"),
    "all zero": ("qrels.txt", "1 0 10 0\n", "qrels=qrels.txt: no item has a value of min_value=1 or more; lower it"),
    "strangers": ("run.txt", "a Q0 10 1 1 x\n", "no user in common: one has 'a', the other '1'; write the ids alike"),
    "empty csv": ("run.csv", "", "run.csv is empty: give a file with a header and at least one row"),
    "header only": ("run.csv", TABLE, "run.csv has no rows: give a file with at least one"),
    "no column": ("run.csv", "user,item_id,score\n1,2,3\n", "columns.user=user_id is not in run.csv; its columns"),
    "no score": ("run.csv", "user_id,item_id,rank\n1,2,3\n", "columns.score=score is not in run.csv"),
    "csv words": ("run.csv", TABLE + "1,10,high\n", "run.csv: data row 1 has score='high', which is not a number"),
    "csv gap": ("run.csv", TABLE + "1,10,1\n1,,1\n", "run.csv: data row 2 has no item_id; 1 such rows"),
    "csv inf": ("run.csv", TABLE + "1,10,inf\n", "run.csv: the score of row 1 (user 1) is inf"),
    "csv twice": ("run.csv", TABLE + "1,10,1\n1,10,2\n", "run.csv lists user 1 and item 10 more than once"),
    "no parquet": ("run.parquet", TABLE, "run.parquet cannot be read as parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_files(files: Path, call: Callable[..., Any], name: str) -> None:
    file, content, message = MISTAKES[name]
    (files / file).write_text(content)
    given = BASIC if file.endswith(".txt") else ("--qrels", "qrels.txt", "--run", file)
    code, out, err = call(*given, "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("name", ["run.txt", "run.csv"])
def test_files_in_another_encoding(files: Path, call: Callable[..., Any], name: str) -> None:
    content = RUN if name.endswith("txt") else TABLE + "1,10,1\n"
    (files / name).write_bytes(content.replace("10", "é").encode("latin-1"))
    code, out, err = call("--qrels", "qrels.txt", "--run", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is no text in UTF-8" in err or "cannot be read as csv: " in err
    assert "utf" in err.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name what is relevant and who is scored, --qrels FILE --run FILE ..., or --rows FILE ..."),
        (("--qrels", "qrels.txt"), "name what is relevant"),
        (("--run", "run.txt"), "name what is relevant"),
        ((*BASIC, "--rows", "run.txt"), "--rows holds labels and scores itself"),
        (("--qrels", "none.txt", "--run", "run.txt"), "no such file: none.txt"),
        (("--qrels", "qrels.txt", "--run", "none.parquet"), "no such file: none.parquet"),
        (("--qrels", "qrels.txt", "--run", "."), ". is a folder: name a file"),
        (("--rows", "run.txt"), "run.txt: the ending must be one of .csv, .jsonl, .ndjson, .parquet, .tsv"),
        ((*BASIC, "run.txt"), "two files would be called"),
        ((*BASIC, "--ks", "0"), "ks=[0]: give cut-offs of 1 or more"),
        ((*BASIC, "--ks", "ten"), "ten"),
        ((*BASIC, "--resamples", "0"), "resamples=0: it must be 1 or more"),
        ((*BASIC, "--out", "run.txt"), "out=run.txt cannot be made: File exists"),
        ((*BASIC, "--kss", "5"), "--kss: no such option; did you mean --ks?"),
        (("--qrels", "--run", "run.txt"), "--qrels needs a value"),
    ],
)  # fmt: skip
def test_mistakes_in_options(files: Path, call: Callable[..., Any], arguments: tuple[str, ...], message: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


@pytest.mark.parametrize(
    ("label", "message"),
    [("2", "data row 2 has label 2: it must be 0 or 1"), ("1", "all labels are 1"), ("x", "label='x', which is not a")],
)
def test_mistakes_in_rows(files: Path, call: Callable[..., Any], label: str, message: str) -> None:
    (files / "rows.csv").write_text(f"user_id,label,score\na,1,0.5\nb,{label},0.5\n")
    code, out, err = call("--rows", "rows.csv")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_list_with_nothing_relevant_is_said(files: Path, score: Score) -> None:
    (files / "run.txt").write_text(RUN.replace(" 1", " i1"))
    assert "no list has an item that is relevant; the first relevant one is '10'" in score(*BASIC)["notes"]


def test_a_hundred_thousand_users_take_seconds(files: Path, score: Score) -> None:
    generator = np.random.default_rng(0)
    users, size = 20_000, 100  # a fifth, as this runs beside other tests
    item = (generator.integers(0, 5000, (users, 1)) + np.cumsum(generator.integers(1, 50, (users, size)), 1)).ravel()
    table = pl.DataFrame({"user_id": np.repeat(np.arange(users), size), "item_id": item})
    table.with_columns(score=pl.Series(generator.normal(size=len(table)))).write_parquet("run.parquet")
    table.gather_every(10).write_parquet("qrels.parquet")
    started = time.process_time()
    found = score("--qrels", "qrels.parquet", "--run", "run.parquet")
    assert time.process_time() - started < 10
    assert found["metrics"]["precision@10"] == pytest.approx(0.1, abs=0.005)


def test_blocks_of_users_change_nothing(files: Path, score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score(*BASIC)
    monkeypatch.setattr("factorlm.evaluation.foreign.BATCH", 1)
    assert score(*BASIC) == expected
