from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from statsmodels.stats.multitest import multipletests

from factorlm.comparison.columns import is_share, split_name
from factorlm.comparison.compare import compare_tables
from factorlm.comparison.runs import by_arm, compare_runs, run_differences
from factorlm.comparison.statistics import holm
from factorlm.errors import UserError
from factorlm.metrics.rows import row_metrics
from factorlm.reporting.figure import draw_bins
from factorlm.reporting.report import study_report
from factorlm.reporting.tables import all_effects, cost, effects, quality, rich_table, slices
from factorlm.reporting.terminal import show
from factorlm.reporting.verdict import verdict, warnings
from factorlm.runs.identity import digest, protocol, require_same_protocol

PROTOCOL = {
    "data": "aa",
    "split": "bb",
    "rows": {"train": 10, "valid": 2, "test": 3},
    "candidates": "items of training: all",
    "exclusion": "test: train",
    "metrics": ["ndcg@10", "hit@10"],
    "selection": "max valid/ndcg@10",
}
RULE = {"name": "UserTime", "test": 0.1}


def table(seed: int, gain: float = 0.0, users: int = 60) -> pl.DataFrame:
    """Values that hang on the user and a little on the seed; users in an order of their own."""
    generator = np.random.default_rng(seed)
    base = np.random.default_rng(0).random(users) * 0.5
    ndcg = base + gain + generator.normal(0, 0.01, users)
    frame = pl.DataFrame(
        {
            "user_id": np.arange(users),
            "train_interactions": np.repeat([0, 3, 7, 7], users // 4),
            "ndcg@10": ndcg,
            "hit@10": (ndcg > 0.25).astype(float),
            "ndcg@10/cold": [value if user % 2 else None for user, value in enumerate(ndcg)],
            "hit@10/cold": np.full(users, 0.5),
            "ndcg@10/uni100": ndcg + 0.3,
        }
    )
    return frame.sample(fraction=1, shuffle=True, seed=seed)


def arms(**gains: float) -> dict[str, list[pl.DataFrame]]:
    return {
        name: [table(10 * place + seed, gain) for seed in (1, 2, 3)] for place, (name, gain) in enumerate(gains.items())
    }


def run(root: Path, arm: str, seed: int, own: pl.DataFrame, rule: dict | None = None, **parts: object) -> Path:
    folder = root / f"{arm}-{seed}"
    folder.mkdir(parents=True)
    own.write_parquet(folder / "per_user.parquet")
    parts = PROTOCOL | parts
    record = {
        "status": "done",
        "key": f"{arm}{seed}",
        "arm": arm,
        "seed": seed,
        "protocol": parts,
        "fingerprint": digest(parts),
        "split": {"rule": rule or RULE},
        "metrics": {"test/ndcg@10": own["ndcg@10"].mean(), "test/coverage@10": 0.5, "valid/ndcg@10": 0.3},
        "parameters": {"trainable": 10},
        "seconds": {"train": {"slow": 9.0}.get(arm, 1.0), "total": 10.0},
        "peak_memory_mb": 100,
        "ms_per_user": 0.5,
    }
    (folder / "record.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("column", "metric", "slice_"),
    [
        ("ndcg@10", "ndcg@10", None),
        ("ndcg@10/cold", "ndcg@10", "cold"),
        ("ndcg@10/uni100", "ndcg@10/uni100", None),
        ("ndcg@10/uni100/tail", "ndcg@10/uni100", "tail"),
        ("auc/genre=Sci-Fi/Fantasy", "auc", "genre=Sci-Fi/Fantasy"),
    ],
)
def test_names_of_columns(column: str, metric: str, slice_: str | None) -> None:
    assert split_name(column) == (metric, slice_)


def test_users_are_paired_by_id() -> None:
    both = arms(ids=0.0, text=0.05)
    found = compare_tables(both, "ndcg@10", 300, 0.01)
    ordered = compare_tables(
        {name: [t.sort("user_id") for t in own] for name, own in both.items()}, "ndcg@10", 300, 0.01
    )
    assert found == ordered
    difference = [
        a.sort("user_id")["ndcg@10"] - b.sort("user_id")["ndcg@10"] for a, b in zip(*both.values(), strict=True)
    ]
    effect = found["arms"]["ids"]["effect"], found["arms"]["text"]["effect"]
    assert effect[0] is None
    assert effect[1]["difference"] == pytest.approx(-np.mean([own.mean() for own in difference]))
    assert (effect[1]["wins"], effect[1]["users"]) == (60, 60)
    json.dumps(found, allow_nan=False)


def test_slices_are_of_the_primary_metric() -> None:
    both = {
        name: [table(10 * place + seed, gain, users=120) for seed in (1, 2, 3)]
        for place, (name, gain) in enumerate({"ids": 0.0, "text": 0.05}.items())
    }
    found = compare_tables(both, "ndcg@10", 300)["arms"]["text"]
    assert list(found["effects"]) == ["hit@10", "ndcg@10/uni100"]
    assert {name: own["users"] for name, own in found["slices"].items()} == {
        "cold": 60, "activity=none": 30, "activity=low": 30, "activity=middle": 60,
    }  # fmt: skip
    assert found["metrics"]["test/ndcg@10/cold"]["mean"] > 0
    assert found["effect"]["p_equivalent"] is None


def test_families_are_adjusted() -> None:
    found = compare_tables(arms(ids=0.0, text=0.004, more=0.003), "ndcg@10", 300, 0.01)["arms"]
    p_values = [found[arm]["effect"]["p_value"] for arm in ("text", "more")]
    assert [found[arm]["effect"]["p_holm"] for arm in ("text", "more")] == holm(p_values)
    every = [effect for arm in ("text", "more") for effect in (
        found[arm]["effect"], *found[arm]["effects"].values(), *found[arm]["slices"].values()
    )]  # fmt: skip
    expected = multipletests([effect["p_value"] for effect in every], method="fdr_bh")[1]
    assert [effect["q_value"] for effect in every] == pytest.approx(expected.tolist())


def test_different_users_need_force() -> None:
    both = arms(ids=0.0, text=0.05)
    both["text"][1] = both["text"][1].filter(pl.col("user_id") < 50)
    with pytest.raises(UserError, match="ids, table 1 has 60 and text, table 2 50, 50 in common.*force=true"):
        compare_tables(both, "ndcg@10", 100, force=False)
    with pytest.raises(UserError, match="evaluate the same users$"):
        compare_tables(both, "ndcg@10", 100)
    found = compare_tables(both, "ndcg@10", 100, force=True)
    assert (found["users"], found["left_out"]) == (50, 10)
    show(found, "forced")
    assert "10 users are left out, who are not in every table" in warnings(found)


def test_different_missing_values() -> None:
    both = arms(ids=0.0, text=0.05)
    both["text"][0] = both["text"][0].with_columns(
        pl.when(pl.col("user_id") > 0).then(pl.col("hit@10")).alias("hit@10")
    )
    found = compare_tables(both, "ndcg@10", 100, force=False)
    assert list(found["arms"]["text"]["effects"]) == ["ndcg@10/uni100"]
    assert "hit@10 is dropped: other users have a value in text, table 1 than in ids, table 1" in warnings(found)
    with pytest.raises(UserError, match="hit@10: other users have a value in text, table 1 than in ids.*force=true"):
        compare_tables(both, "hit@10", 100, force=False)
    assert compare_tables(both, "ndcg@10", 100, force=True)["arms"]["text"]["effects"]["hit@10"]["users"] == 59


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.rename({"ndcg@10": "ndcg@5"}), "metric=ndcg@10 is not in ids, table 1.*did you mean"),
        (lambda own: own.drop("user_id"), "ids, table 1: there is no column user_id"),
        (lambda own: pl.concat([own, own]), "ids, table 1: a user_id comes twice"),
        (
            lambda own: own.with_columns(pl.col("user_id").cast(str)),
            "user_id is String in ids, table 1 and Int64 in text",
        ),
        (lambda own: own.head(1), "users differ"),
    ],
)
def test_mistakes_in_tables(change: object, message: str) -> None:
    both = {"ids": [change(table(1))], "text": [table(2)]}  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        compare_tables(both, "ndcg@10", 100)


def test_too_little_to_compare() -> None:
    with pytest.raises(UserError, match="only the arm ids"):
        compare_tables({"ids": [table(1)]}, "ndcg@10", 100)
    with pytest.raises(UserError, match="they have ids 1, text 2"):
        compare_tables({"ids": [table(1)], "text": [table(1), table(2)]}, "ndcg@10", 100)
    with pytest.raises(UserError, match="has a value for 1 users"):
        compare_tables({"ids": [table(1).head(1)], "text": [table(1).head(1)]}, "ndcg@10", 100)


def test_verdicts() -> None:
    gains = {"ids": 0.0, "up": 0.05, "down": -0.05, "slight": 0.01, "same": 0.0, "little": -0.004}
    found = compare_tables(arms(**gains) | {"twin": arms(ids=0.0)["ids"]}, "ndcg@10", 300, 0.02)
    said = {sentence.split()[0]: sentence for sentence in verdict(found)}
    assert said["up"].startswith("up is better than ids: +0.0")
    assert said["down"].startswith("down is worse than ids: -0.0")
    assert said["slight"].startswith(
        "slight is better than ids, by less than the smallest effect that matters (0.02): "
    )
    assert said["same"].startswith("same is equivalent to ids within ±0.02: ")
    assert said["twin"].startswith("twin is the same as ids for every user: ")
    noisy = np.random.default_rng(3)
    both = {name: [table(1).with_columns(pl.Series("ndcg@10", noisy.random(60)))] for name in ("ids", "text")}
    (sentence,) = verdict(compare_tables(both, "ndcg@10", 300, 0.001))
    assert "text is not distinguishable from ids; this comparison finds effects of 0.1" in sentence


def test_what_is_seen_is_seen_after_holm() -> None:
    """A difference above what one test would see may still be none among many arms; the sentence must not deny it."""
    noisy = np.random.default_rng(3)
    both = {str(arm): [table(1).with_columns(pl.Series("ndcg@10", noisy.random(60)))] for arm in range(6)}
    found = compare_tables(both, "ndcg@10", 300)
    effect = found["arms"]["1"]["effect"]
    assert effect["detectable_holm"] > effect["detectable"]
    assert f"finds effects of {effect['detectable_holm']:.4f} with probability 0.8" in verdict(found)[0]


def test_few_seeds_are_warned_of() -> None:
    both = arms(ids=0.0, text=0.05)
    for count, words in ((1, ["one run of each arm", "fewer than 300 users"]), (2, ["two seeds: "]), (3, [])):
        found = warnings(compare_tables({name: own[:count] for name, own in both.items()}, "ndcg@10", 100))
        assert [line.startswith(word) for line, word in zip(found, words, strict=True)] == [True] * len(words)


@pytest.mark.parametrize("metric", ["auc", "logloss", "accuracy", "f1"])
def test_shares_of_users_are_not_values_of_users(metric: str) -> None:
    """Where only the active users' scores change, the metric of the others stays, and their shares do not."""
    generator = np.random.default_rng(0)
    counts = np.repeat([3, 10, 100], 60)
    users, labels = np.repeat(np.arange(180), counts), generator.integers(0, 2, counts.sum())
    base = 0.3 * labels + generator.normal(size=len(labels))
    both = {}
    for name, scores in (("ids", base), ("text", np.where(users < 120, base, base + 0.5 * labels))):
        found = row_metrics(*map(torch.tensor, (users, labels, scores)), probabilities=False, threshold=0.5)
        shares = {key: value.numpy() for key, value in found.shares.items()}
        both[name] = [pl.DataFrame({"user_id": range(180), "train_interactions": counts, **shares})]
        assert {key for key in shares if is_share(key)} == set(shares) - {"uauc"}
    low = both["text"][0][metric][:60] - both["ids"][0][metric][:60]
    assert low.abs().max() > 0 or metric in ("logloss", "accuracy")
    found = compare_tables(both, metric, 100)
    assert (found["activity"], found["arms"]["text"]["slices"]) == ({}, {})
    effect = found["arms"]["text"]["effect"]
    assert (effect["wins"], effect["losses"], effect["ties"], effect["users"]) == (None, None, None, 180)
    assert effects(found)[1][6] == "–"
    assert all(row[8] == ("–" if is_share(row[1]) else row[8]) for row in all_effects(found, "effects")[1:])
    assert len(slices(found)) == 1
    show(found, "rows")
    json.dumps(found, allow_nan=False)
    assert compare_tables(both, "uauc", 100)["activity"]


def test_edited_tables_are_refused(tmp_path: Path) -> None:
    one, two = run(tmp_path, "ids", 1, table(1)), run(tmp_path, "text", 1, table(2))
    table(2).with_columns(pl.col("ndcg@10") + 0.001).write_parquet(two / "per_user.parquet")
    with pytest.raises(UserError, match="per_user.parquet of .*text-1 was edited: the mean of ndcg@10 is 0") as caught:
        compare_runs({"ids": [one], "text": [two]}, "ndcg@10", 100)
    assert "\n" not in str(caught.value)


def report_of(found: dict) -> str:
    return study_report({"study": "runs", "question": "", "protocols": {f"against {found['baseline']}": found}})


def test_a_metric_without_a_value_is_no_obstacle(tmp_path: Path) -> None:
    folders = {arm: [run(tmp_path, arm, 1, table(place))] for place, arm in enumerate(("ids", "text"))}
    record = json.loads((folders["text"][0] / "record.json").read_text())
    record["metrics"] |= {"test/coverage@10": None}
    (folders["text"][0] / "record.json").write_text(json.dumps(record))
    found = compare_runs(folders, "ndcg@10", 100)
    assert "test/coverage@10" in found["arms"]["ids"]["metrics"]
    assert "test/coverage@10" not in found["arms"]["text"]["metrics"]
    show(found, "runs")
    assert "not every record says how often the test part was evaluated" in report_of(found)


def test_evaluations_of_test_are_those_of_the_records(tmp_path: Path) -> None:
    folders = {arm: [run(tmp_path, arm, 1, table(place))] for place, arm in enumerate(("ids", "text"))}
    for times, words in ((1, "once"), (3, "up to 3 times")):
        for place, (folder,) in enumerate(folders.values()):
            record = json.loads((folder / "record.json").read_text()) | {"test_evaluations": times if place else 1}
            (folder / "record.json").write_text(json.dumps(record))
        report = report_of(compare_runs(folders, "ndcg@10", 100))
        assert f"the test part was evaluated {words} for each run." in report


def test_a_lower_loss_is_better() -> None:
    both = {
        name: [own.rename({"ndcg@10": "logloss"}) for own in tables]
        for name, tables in arms(ids=0.0, text=0.05).items()
    }
    found = compare_tables(both, "logloss", 300, 0.01)
    assert verdict(found)[0].startswith("text is worse than ids: +0.0")
    assert found["arms"]["text"]["effect"]["p_not_worse"] > 0.9


def test_runs_with_cost_and_front(tmp_path: Path) -> None:
    gains = {"ids": 0.0, "text": 0.05, "slow": 0.02}
    folders = {
        arm: [run(tmp_path, arm, seed, own) for seed, own in zip((3, 1, 2), tables, strict=True)]
        for arm, tables in arms(**gains).items()
    }
    found = compare_runs(folders, "ndcg@10", 300)
    assert (found["seeds"], found["not_comparable"]) == ([1, 2, 3], [])
    assert [Path(own).name for own in found["arms"]["ids"]["runs"]] == ["ids-1", "ids-2", "ids-3"]
    assert {arm: own["pareto"] for arm, own in found["arms"].items()} == {"ids": False, "text": True, "slow": False}
    assert found["arms"]["slow"]["cost"]["ms_per_user"] == 0.5
    assert found["arms"]["ids"]["metrics"]["test/coverage@10"]["mean"] == 0.5
    baseline, arm, difference = run_differences([*folders["ids"], *folders["text"]], "ndcg@10")
    assert (baseline, arm, difference.shape) == ("ids", "text", (3, 60))
    assert difference.mean() == pytest.approx(found["arms"]["text"]["effect"]["difference"])


def test_tables_fit_the_terminal(tmp_path: Path) -> None:
    from rich.console import Console

    names = [f"smollm2_lora_fm{place}" for place in range(3)]
    folders = {
        arm: [run(tmp_path, arm, seed, own) for seed, own in enumerate(tables)]
        for arm, tables in arms(**dict.fromkeys(names, 0.0)).items()
    }
    found = compare_runs(folders, "ndcg@10", 100)
    for content in (quality(found, written=False), effects(found), cost(found), slices(found)):
        console = Console(width=200)
        assert console.measure(rich_table(content)).maximum <= 80, content[0]
    report = report_of(found)
    assert "| arm | metric | users | diff | 95 % interval | p | q | d | win/loss/tie | sees |" in report
    full, sampled = report.split("All metrics on uni100 candidates")
    assert "ndcg@10/uni100" not in full
    assert "hit@10" not in sampled


def test_bins_are_drawn_with_their_intervals(tmp_path: Path) -> None:
    effect = {"difference": 0.03, "low": 0.01, "high": 0.05}
    bins = {f"train_interactions={name}": effect for name in ("0", "1-4", "20+")}
    first = {"metric": "ndcg@10", "baseline": "ids", "arms": {"ids": {"effect": None, "slices": {}}}}
    first["arms"] |= {arm: {"effect": effect, "slices": {"cold": effect, **bins}} for arm in ("side", "text")}
    without = json.loads(json.dumps(first))
    for own in without["arms"].values():
        own["slices"] = {}
    assert not draw_bins({"warm": without}, tmp_path / "figure.svg")
    assert not (tmp_path / "figure.svg").exists()
    assert draw_bins({"shop": first, "warm": without}, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    words = re.findall(r">([^<>]+)</text>", drawn)
    assert {"shop", "side", "text", "0", "1-4", "20+", "ndcg@10 minus that of ids"} <= set(words)
    assert "warm" not in words
    before = drawn
    draw_bins({"shop": first}, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text() == before  # the same figure is the same file


def test_an_edited_record_is_refused(tmp_path: Path) -> None:
    one, two = run(tmp_path, "ids", 1, table(1)), run(tmp_path, "text", 1, table(2))
    record = json.loads((two / "record.json").read_text())
    record["protocol"]["candidates"] = "all"
    (two / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="text-1: the record was edited: fingerprint="):
        compare_runs({"ids": [one], "text": [two]}, "ndcg@10", 100)


def test_every_differing_part_is_named(tmp_path: Path) -> None:
    one = run(tmp_path, "ids", 1, table(1))
    parts = {
        "split": "cc",
        "candidates": "all items: all",
        "metrics": ["ndcg@10", "map@10"],
        "tokenizer": "x",
        "data": "dd",
    }
    two = run(tmp_path, "text", 1, table(2), rule={"name": "LeaveOneOut"}, **parts)
    with pytest.raises(UserError) as caught:
        compare_runs({"ids": [one], "text": [two]}, "ndcg@10", 100)
    message = str(caught.value)
    for expected in (
        "split differs (split=user_time split.test=0.1 against split=leave_one_out): train both with split=user_time",
        "candidates differ (items of training: all against all items: all): train both with the same split",
        "metrics differ (only the first has hit@10 and only the second has map@10): train both with the same metrics",
        "tokenizer differs (nothing against x)",
        "data differ (aa against dd): train both on the same files",
        "force=true",
    ):
        assert expected in message
    assert "\n" not in message
    found = compare_runs({"ids": [one], "text": [two]}, "ndcg@10", 100, force=True)
    assert len(found["not_comparable"]) == 5
    report = report_of(found)
    bar = "(NOT COMPARABLE: other data, split"
    headings = [line for line in report.splitlines() if line.startswith(("#", "<details>"))]
    assert [bar in line for line in headings] == [True] * (len(headings) - 1) + [False]
    assert headings[-1] == "## How to read it"
    assert f"## against ids {bar}" in report
    assert "**NOT COMPARABLE: data differ (aa against dd); split differs (split=user_time" in report


def test_protocols_are_compared_part_by_part() -> None:
    parts = protocol(**PROTOCOL)  # type: ignore[arg-type]
    require_same_protocol({"a": {"protocol": parts}, "b": {"protocol": parts}})
    other = {"protocol": parts | {"selection": "max valid/hit@10"}}
    with pytest.raises(
        UserError, match=r"b and 1 more cannot be compared with a: selection differs .*selection=ndcg@10;"
    ):
        require_same_protocol({"a": {"protocol": parts}, "b": other, "c": other})


def test_unfinished_or_unpaired_runs_are_refused(tmp_path: Path) -> None:
    one, two = run(tmp_path, "ids", 1, table(1)), run(tmp_path, "text", 2, table(2))
    with pytest.raises(UserError, match="the same seeds, once"):
        compare_runs({"ids": [one], "text": [two]}, "ndcg@10", 100)
    with pytest.raises(UserError, match="holds no finished run"):
        compare_runs({"ids": [one], "text": [tmp_path]}, "ndcg@10", 100)
    with pytest.raises(UserError, match="two arms with two seeds or more"):
        run_differences([one, two], "ndcg@10")
    (one / "per_user.parquet").unlink()
    with pytest.raises(UserError, match="per_user.parquet is missing"):
        compare_runs({"ids": [one], "text": [run(tmp_path, "text", 1, table(2))]}, "ndcg@10", 100)


def test_runs_of_one_name_and_two_configs_are_two_arms(tmp_path: Path) -> None:
    folders = []
    for lr in (0.1, 0.2):
        for seed in (1, 2):
            folder = tmp_path / f"run-{lr}-{seed}"
            folder.mkdir()
            protocol = {"data": "aa"}
            record = {"status": "done", "arm": "run", "protocol": protocol, "fingerprint": digest(protocol)}
            (folder / "record.json").write_text(json.dumps(record))
            (folder / "config.yaml").write_text(f"seed: {seed}\noptimizer: {{lr: {lr}, decay: 0}}\n")
            folders.append(folder)
    grouped = by_arm(folders)
    assert grouped == {"optimizer.lr=0.1": folders[:2], "optimizer.lr=0.2": folders[2:]}
    assert list(by_arm(folders[:2])) == ["run-0.1-1", "run-0.1-2"]
