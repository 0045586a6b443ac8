"""``factorlm audit``: a clean run passes, and each way to be wrong is found by its check."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from factorlm.cli import main
from factorlm.commands.evaluate import evaluate
from factorlm.commands.train import train
from factorlm.evaluation.audit import _names as names_item
from factorlm.models.recommender import RecommenderCatalogue as Catalogue
from factorlm.runs.identity import digest

Compose = Callable[..., DictConfig]
CHECKS = [
    "fingerprint", "order of equal times", "leakage over time", "own future", "train-test overlap", "rows",
    "repeatable", "order", "ties", "degenerate scores", "popularity", "context names the target", "use of test",
]  # fmt: skip


@dataclass
class Audit:
    """Train and audit in this process."""

    small: Compose
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def train(self, *overrides: str) -> Path:
        return train(self.small(f"run.dir={self.folder}", "dataset.num_users=80", *overrides), progress=False)

    def text(self, *arguments: str) -> tuple[Any, str, str]:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["audit", f"run.dir={self.folder}", f"cache={self.small().cache}", *arguments])
        return stop.value.code, *self.capsys.readouterr()

    def levels(self) -> tuple[Any, dict[str, str]]:
        """Exit status, and the level of each check but those that pass."""
        code, out, err = self.text("--json")
        assert code in (0, 3), err
        document = json.loads(out)
        levels = {finding["check"]: finding["level"] for finding in document["findings"]}
        failed = [check for check, level in levels.items() if level == "fail"]
        assert document["failed"] == failed
        assert (code == 3) == bool(failed)
        assert err == "" if code == 0 else f"checks failed: {', '.join(failed)}" in err
        return code, {check: level for check, level in levels.items() if level != "pass"}

    def found(self, check: str) -> str:
        findings = json.loads(self.text("--json")[1])["findings"]
        return next(finding["found"] for finding in findings if finding["check"] == check)


@pytest.fixture
def audit(small: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Audit:
    return Audit(small, tmp_path / "run", capsys)


def edit(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(path)).write_parquet(path)


def edit_record(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((folder / "record.json").read_text())
    change(record)
    (folder / "record.json").write_text(json.dumps(record))


LEARNED = ["trainer.max_epochs=15", "optimizer.lr=0.03", "model.factor_l2=0.01"]


def test_a_clean_run_passes(audit: Audit) -> None:
    folder = audit.train("split=global_time", "split.cold_items=keep", *LEARNED)
    before = (folder / "record.json").read_text()
    assert audit.levels() == (0, {})
    code, out, err = audit.text()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split("  ")[1].partition(":")[0] for line in lines] == [*CHECKS, "recommended lists"]
    assert all(line.startswith("pass  ") for line in lines)
    assert (folder / "record.json").read_text() == before
    document = json.loads(audit.text("--json")[1])
    assert document["run"] == str(folder)
    assert set(document["findings"][0]) == {"check", "level", "found", "why"}


CLEAN = {
    "successive": ["split.target=successive", "split.test=0.3"],
    "uniform": ["candidates=uniform"],
    "slices": ["metrics.slices=[topic,tags,train_interactions]", "metrics.diversity=tags", "split.cold_items=keep"],
    "text": ["backbone=tiny", "split=cold_item", "dataset.num_items=240"],
    "cold users": ["split=cold_user", "dataset.num_items=240"],
}


@pytest.mark.parametrize("name", CLEAN)
def test_other_clean_runs_do_not_fail(audit: Audit, name: str) -> None:
    audit.train(*LEARNED, *CLEAN[name])
    code, levels = audit.levels()
    assert code == 0
    expected = {
        "cold users": {"popularity"},  # nothing else is known of them
        "text": {"own future", "ties"},  # books on one topic have the same text
    }
    assert set(levels) <= {"leakage over time"} | expected.get(name, set())


def test_a_clean_pointwise_run_passes(audit: Audit) -> None:
    audit.train("task=pointwise", *LEARNED)
    code, levels = audit.levels()
    assert code == 0
    assert levels.items() <= {"leakage over time": "warn"}.items()
    edit(audit.folder / "rows.parquet", lambda table: table.head(-1))
    assert audit.levels()[1].items() >= {"rows": "fail", "repeatable": "fail"}.items()


def replaced(column: str, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """The first row with another value."""
    return lambda table: pl.concat(
        [table.head(1).with_columns(pl.lit(value, table.schema[column]).alias(column)), table[1:]]
    )


TABLES: dict[str, tuple[str, Callable[[pl.DataFrame], pl.DataFrame], set[str], str]] = {
    "duplicated": ("per_user", lambda table: pl.concat([table, table[3:4]]), {"rows", "repeatable"}, "2 users stand"),
    "removed": ("per_user", lambda table: table[1:], {"rows", "repeatable"}, "1 test users are missing"),
    "stranger": ("per_user", replaced("user_id", "nobody"), {"rows", "repeatable"}, "1 users are not in the test part"),
    "edited": ("per_user", replaced("ndcg@10", 0.77), {"rows", "repeatable"}, "the mean of ndcg@10 is"),
    "swapped": (
        "per_user", lambda table: table.with_columns(pl.col("hit@20").reverse()), {"repeatable"},
        "other values of users in per_user.parquet",
    ),
    "repeated": ("topk", lambda table: pl.concat([table, table[:1]]), {"recommended lists", "repeatable"}, "2 entries"),
    "strange": ("topk", replaced("item_id", "none"), {"recommended lists", "repeatable"}, "1 entries are no"),
    "score": ("topk", replaced("score", 9.0), {"repeatable"}, "other rows in topk.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_edited_tables(audit: Audit, name: str) -> None:
    table, change, failing, words = TABLES[name]
    audit.train(*LEARNED)
    edit(audit.folder / f"{table}.parquet", change)
    code, levels = audit.levels()
    assert code == 3
    assert {check for check, level in levels.items() if level == "fail"} == failing
    assert any(words in audit.found(check) for check in failing)


def had_before(audit: Audit) -> tuple[str, str]:
    """A user of the lists and an item that this user has in training."""
    from factorlm.config.build import cache_dir, make_data
    from factorlm.data.prepared import load_prepared, prepare

    config = audit.small("dataset.num_users=80")
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    user, item = (parts["train"][0] for parts in (prepared.split.users, prepared.split.items))
    return prepared.frames["user"]["user_id"][int(user)], prepared.frames["item"]["item_id"][int(item)]


@pytest.mark.parametrize("target", ["all", "successive"])
def test_an_excluded_item_in_a_list(audit: Audit, target: str) -> None:
    audit.train(*LEARNED, f"split.target={target}")
    user, item = had_before(audit)
    where = (pl.col("user_id") == user) & (pl.col("rank") == 5)
    edit(
        audit.folder / "topk.parquet",
        lambda table: table.with_columns(item_id=pl.when(where).then(pl.lit(item)).otherwise("item_id")),
    )
    code, levels = audit.levels()
    assert code == 3
    assert levels["recommended lists"] == "fail"
    assert "entries are excluded items" in audit.found("recommended lists")


def test_an_item_that_was_not_drawn_in_a_list(audit: Audit) -> None:
    folder = audit.train(*LEARNED, "candidates=uniform", "candidates.num=5")
    user, item = had_before(audit)
    where = (pl.col("user_id") == user) & (pl.col("rank") == 2)
    edit(
        folder / "topk.parquet",
        lambda table: table.with_columns(item_id=pl.when(where).then(pl.lit(item)).otherwise("item_id")),
    )
    assert audit.levels()[1]["recommended lists"] == "fail"
    assert audit.found("recommended lists") == "1 entries are no candidates"


def test_an_edited_checkpoint(audit: Audit) -> None:
    folder = audit.train(*LEARNED)
    path = folder / "checkpoint" / "model.safetensors"
    weights = load_file(path)
    name = "table.weight"
    weights[name] = weights[name] + 0.5 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    save_file(weights, path)
    code, levels = audit.levels()
    assert code == 3
    assert levels["repeatable"] == "fail"
    assert "per_user.parquet, rows in topk.parquet, test/" in audit.found("repeatable")


def raise_ndcg(record: dict[str, Any]) -> None:
    record["metrics"]["test/ndcg@10"] += 0.01


def raise_coverage(record: dict[str, Any]) -> None:
    record["metrics"]["test/coverage@10"] += 0.01


def rename_candidates(record: dict[str, Any]) -> None:
    record["protocol"]["candidates"] = "some"


def change_fingerprint(record: dict[str, Any]) -> None:
    record["fingerprint"] = "0" * 12


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (raise_ndcg, {"rows", "repeatable"}),
        (raise_coverage, {"repeatable"}),
        (rename_candidates, {"fingerprint"}),
        (change_fingerprint, {"fingerprint"}),
    ],
)
def test_an_edited_record(audit: Audit, change: Callable[[dict[str, Any]], None], failing: set[str]) -> None:
    edit_record(audit.train(*LEARNED), change)
    code, levels = audit.levels()
    assert code == 3
    assert {check for check, level in levels.items() if level == "fail"} == failing


def test_a_model_that_says_nothing(audit: Audit) -> None:
    audit.train("split=cold_item", "dataset.num_items=240")  # ids know nothing of cold items
    code, levels = audit.levels()
    assert code == 3
    assert levels["degenerate scores"] == "fail"
    assert levels["ties"] == "warn"
    assert "popularity" not in levels  # all candidates are equally popular
    assert audit.found("degenerate scores") == "100.0% of users get one score for all candidates"


def test_popularity(audit: Audit) -> None:
    audit.train("baseline=bias")
    code, levels = audit.levels()
    assert code == 0
    assert levels["popularity"] == "warn"
    assert "100% of the first 10" in audit.found("popularity") or levels["ties"] == "warn"


def test_test_that_was_evaluated_again(audit: Audit) -> None:
    folder = audit.train(*LEARNED)
    assert "use of test" not in audit.levels()[1]
    evaluate(folder, "valid", audit.small().cache)
    assert "use of test" not in audit.levels()[1]
    evaluate(folder, "test", audit.small().cache)
    assert audit.levels()[1]["use of test"] == "warn"
    assert audit.found("use of test") == "the test part was evaluated 2 times"


def test_seeing_the_future(audit: Audit) -> None:
    audit.train("split=random", *LEARNED)
    levels = audit.levels()[1]
    assert levels["leakage over time"] == levels["own future"] == "warn"


def profiles(tmp_path: Path, secret: bool) -> list[str]:
    """Users with a text that says what they read, up to the last book or without it."""
    log = pl.DataFrame({
        "user_id": [f"u{u}" for u in range(60) for _ in range(8)],
        "item_id": [f"i{(u * 5 + t * (1 + u % 3)) % 40}" for u in range(60) for t in range(8)],
        "timestamp": [t for _ in range(60) for t in range(8)],
    })  # fmt: skip
    log.write_csv(tmp_path / "log.csv")
    pl.DataFrame({"item_id": [f"i{i}" for i in range(40)], "title": [f"Volume <{i}>" for i in range(40)]}).write_csv(
        tmp_path / "items.csv"
    )
    read = log if secret else log.filter(pl.col("timestamp") < 6)
    read.join(pl.read_csv(tmp_path / "items.csv"), on="item_id").group_by("user_id").agg(
        profile=pl.lit("Has read ") + pl.col("title").str.join(", ")
    ).sort("user_id").write_csv(tmp_path / "users.csv")
    paths = [f"dataset.{name}={tmp_path}/{file}.csv" for name, file in
             (("interactions", "log"), ("items", "items"), ("users", "users"))]  # fmt: skip
    field = "+fields.profile={kind: text, side: user, column: profile}"
    return ["dataset=files", *paths, "backbone=tiny", field, "split=leave_one_out", "~dataset.num_users"]


@pytest.mark.parametrize("secret", [False, True])
def test_a_text_that_names_the_target(audit: Audit, tmp_path: Path, secret: bool) -> None:
    overrides = [one for one in profiles(tmp_path, secret) if not one.startswith("~")]
    train(audit.small(f"run.dir={audit.folder}", *overrides), progress=False)
    code, levels = audit.levels()
    assert code == (3 if secret else 0)
    assert levels.get("context names the target", "pass") == ("fail" if secret else "pass")
    words = "60 of 60" if secret else "0 of 60"
    expected = f"{words} test interactions are named in what the model reads of their user (profile)"
    assert audit.found("context names the target") == expected


def test_values_that_name_the_target(audit: Audit, tmp_path: Path) -> None:
    overrides = [one for one in profiles(tmp_path, True) if not one.startswith(("~", "backbone", "+fields"))]
    log = pl.read_csv(tmp_path / "log.csv")
    users = log.group_by("user_id").agg(history=pl.col("item_id").str.join("|")).sort("user_id")
    users.write_csv(tmp_path / "users.csv")
    field = "+fields.history={kind: multi_hot, side: user, column: history}"
    train(audit.small(f"run.dir={audit.folder}", *overrides, field), progress=False)
    assert audit.levels()[1]["context names the target"] == "fail"


def test_targets_that_the_order_of_the_source_decides(audit: Audit, tmp_path: Path) -> None:
    overrides = [one for one in profiles(tmp_path, False) if not one.startswith(("~", "backbone", "+fields"))]
    log = pl.read_csv(tmp_path / "log.csv").with_columns(timestamp=pl.lit(7))
    log.write_csv(tmp_path / "log.csv")
    train(audit.small(f"run.dir={audit.folder}", *overrides), progress=False)
    assert audit.levels()[1]["order of equal times"] == "warn"


def by_place(self: Catalogue, users: Tensor) -> Tensor:
    """Scores that depend on the place in the batch."""
    scores = torch.stack([CROSS(self, user.view(1))[0] for user in users])
    return scores + (torch.arange(len(users)) % 2).unsqueeze(1) * torch.linspace(0, 1, scores.shape[1])


def by_column(self: Catalogue, users: Tensor) -> Tensor:
    """Scores that depend on the order of the candidates."""
    scores = CROSS(self, users)
    return scores + torch.linspace(0, 1, scores.shape[1])


def by_row(self: Catalogue, users: Tensor, items: Tensor) -> Tensor:
    """Scores of rows that depend on their batch."""
    return PAIRS(self, users, items) + len(users) * 1e-3


CROSS, PAIRS = Catalogue.cross, Catalogue.pairs


@pytest.mark.parametrize(
    ("method", "scores", "overrides"),
    [("cross", by_place, []), ("cross", by_column, []), ("pairs", by_row, ["task=pointwise"])],
)
def test_scores_that_depend_on_order(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, method: str, scores: Callable[..., Tensor], overrides: list[str]
) -> None:
    monkeypatch.setattr(Catalogue, method, scores)
    audit.train(*overrides)
    code, levels = audit.levels()
    assert code == 3
    assert {check for check, level in levels.items() if level == "fail"} == {"order"}


def test_what_cannot_be_audited(audit: Audit) -> None:
    code, out, err = audit.text()
    assert (code, out) == (2, "")
    assert err == f"factorlm: run.dir={audit.folder} holds no run: name the folder of a finished run\n"
    with pytest.raises(SystemExit) as stop:
        main(["audit"])
    assert stop.value.code == 2
    assert "run.dir is missing" in audit.capsys.readouterr().err
    folder = audit.train()
    (folder / "topk.parquet").unlink()
    assert audit.text()[2] == (
        f"factorlm: {folder}/topk.parquet is missing: factorlm evaluate run.dir={folder} writes it again\n"
    )
    edit_record(folder, lambda record: record.update(status="failed"))
    assert "holds a run with status failed" in audit.text()[2]


def test_a_record_that_was_edited_and_hashed_again(audit: Audit) -> None:
    audit.train()

    def edited(record: dict[str, Any]) -> None:
        record["protocol"]["candidates"] = "all items: all"
        record["fingerprint"] = digest(record["protocol"])

    edit_record(audit.folder, edited)
    code, levels = audit.levels()
    assert (code, levels["fingerprint"]) == (3, "fail")
    assert audit.found("fingerprint") == "config and data of the run give another candidates than its record says"


@pytest.mark.parametrize(
    ("context", "named"),
    [("Loves THE MATRIX", True), ("zip code 1995", False), (["A1"], True), (["the matrix"], True), (["1"], False)],
)
def test_what_names_an_item(context: str | list[str], named: bool) -> None:
    item_id = "1995" if isinstance(context, str) else "a1"
    assert names_item(context, "the matrix", item_id) is named
