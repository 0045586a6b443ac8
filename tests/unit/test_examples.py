"""Files of examples: users are found again, nothing of a tested user trains, and mistakes are one line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from omegaconf import DictConfig
from sklearn.metrics import roc_auc_score

from factorlm.commands.evaluate import evaluate_apart
from factorlm.commands.train import train
from factorlm.data.prepared import load_prepared, prepare
from factorlm.data.rules import NO_PART, PARTS, ExampleUsers
from factorlm.data.sources.examples import Examples, read_examples
from factorlm.data.tables import frame
from factorlm.errors import UserError
from factorlm.evaluation.pointwise import row_task

Rated = tuple[str, bool]


def example(before: list[Rated], asked: Rated) -> dict[str, str]:
    liked, disliked = (", ".join(f'"{film}"' for film, label in before if label == kind) for kind in (True, False))
    return {
        "instruction": "Will they?",
        "input": f"User Preference: {liked}\nUser Unpreference: {disliked}\n"
        f'Whether the user will like the target movie "{asked[0]}"?',
        "output": "Yes." if asked[1] else "No.",
    }


def films(user: int, size: int) -> list[Rated]:
    """What a user rated, in order; a title has a comma, quotes inside and letters beyond ASCII."""
    generator = random.Random(user)
    rated = [(f'Film, "the" {number} (19{number:02})', generator.random() < 0.6) for number in range(size)]
    generator.shuffle(rated)
    return [*rated[:1], (f"Amélie {user}", True), *rated[1:]]


def windows(rated: list[Rated], width: int = 4) -> list[dict[str, str]]:
    return [example(rated[end - width : end], rated[end]) for end in range(width, len(rated))]


def written(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


USERS = {user: films(user, 9 + user) for user in range(10)}


@pytest.fixture
def file(tmp_path: Path) -> str:
    return written(tmp_path / "all.json", [row for rated in USERS.values() for row in windows(rated)])


def rule(apart: str | None = None) -> ExampleUsers:
    return ExampleUsers(valid=0.2, test=0.3, seed=1, apart=apart, min_user=0, min_item=0)


def source(*paths: str) -> Examples:
    return Examples(interactions=list(paths), negatives="keep", text="{title}")


@pytest.mark.parametrize("shuffled", [False, True])
def test_users_are_chains_of_examples(tmp_path: Path, shuffled: bool) -> None:
    rows = [row for rated in USERS.values() for row in windows(rated)]
    if shuffled:
        random.Random(0).shuffle(rows)
    found = read_examples(written(tmp_path / "rows.json", rows))
    chains = {
        tuple(zip(table["item_id"], table["value"] == 1, strict=True))
        for _, table in found.sort("timestamp").group_by("user_id", maintain_order=True)
    }
    assert chains == {tuple(rated) for rated in USERS.values()}
    assert (found.filter(pl.col("timestamp") < 0).group_by("user_id").len()["len"] == 4).all()


def test_the_order_of_a_short_chain_is_what_the_lists_tell(tmp_path: Path) -> None:
    rated = [("a", False), ("b", True), ("c", False), ("d", True), ("e", True)]
    found = read_examples(written(tmp_path / "one.json", windows(rated)))
    assert found["item_id"].to_list() == ["b", "d", "a", "c", "e"]
    assert found["timestamp"].to_list() == [-4, -3, -2, -1, 0]
    assert found["value"].to_list() == [1, 1, 0, 0, 1]


def test_nothing_of_a_tested_user_trains_and_each_row_sees_what_came_before(file: str, tmp_path: Path) -> None:
    prepared = load_prepared(prepare(source(file), rule(), tmp_path)[0])
    split, rows = prepared.split, frame(prepared.tables.interactions)
    users = {part: set(split.users[part].tolist()) for part in PARTS}
    assert [len(users[part]) for part in PARTS] == [5, 2, 3]
    assert len(set.union(*users.values())) == 10
    train = rows[split.rows["train"]]
    assert (train["timestamp"] < 0).sum() == 4 * 5  # what their first examples list trains, too
    for part in ("valid", "test"):
        assert (rows[split.rows[part]]["timestamp"] >= 0).all()
        task = row_task(prepared, part, "earlier")
        titles, rated = prepared.frames["item"]["item_id"], task.contexts.rated
        assert rated is not None
        for number, row in enumerate(split.rows[part].tolist()):
            user, time = rows["user_id"][row], rows["timestamp"][row]
            place = int(task.places[number])
            had = slice(int(rated.starts[place]), int(rated.ends[place]))
            seen = list(zip(titles[rated.log[had].tolist()], rated.labels[had].tolist(), strict=True))
            before = rows.filter(pl.col("user_id") == user, pl.col("timestamp") < time).sort("timestamp")
            assert seen == list(zip(before["item_id"], before["label"], strict=True))
            assert len(seen) == 4 + time
        assert all(not len(row_task(prepared, part, "train").contexts.pairs()[0]) for part in ("valid", "test"))


def test_users_of_a_file_kept_apart_test_and_training_stays(file: str, tmp_path: Path) -> None:
    known = load_prepared(prepare(source(file), rule(), tmp_path)[0])
    others = [row for user in (20, 21) for row in windows(films(user, 8))]
    apart = written(tmp_path / "apart.json", others)
    both = source(file, apart)
    prepared = load_prepared(prepare(both, rule(apart), tmp_path)[0])
    tables = [frame(one.tables.interactions)[one.split.rows["train"]] for one in (known, prepared)]
    assert tables[0].equals(tables[1])
    assert len(prepared.split.rows["test"]) == len(others)
    assert len(prepared.split.rows["valid"]) == len(known.split.rows["valid"])
    interactions = both.load(tmp_path).interactions
    parts = rule(apart)(interactions, np.ones(len(interactions), np.bool_))
    assert (parts == NO_PART).sum() == sum(len(rated) for rated in USERS.values()) - sum(
        len(frame(known.tables.interactions).filter(pl.col("user_id") == known.frames["user"]["user_id"][int(user)]))
        for part in ("train", "valid")
        for user in np.unique(known.split.users[part])
    )


def test_a_file_kept_apart_needs_users_of_its_own(file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has every user of the dataset"):
        prepare(source(file), rule(file), tmp_path)


GOOD = windows(films(0, 9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "cannot be read as JSON"),
        ("{}", "must be a JSON list of examples"),
        ("[]", "must be a JSON list of examples"),
        ([*GOOD, 3], "example 7 is no object with the texts input and output"),
        ([{"input": GOOD[0]["input"]}], "example 1 is no object with the texts input and output"),
        ([GOOD[0] | {"output": "Maybe."}], r"example 1: output 'Maybe\.' must be Yes\. or No\."),
        ([GOOD[0] | {"input": "I like films."}], "example 1: input 'I like films.' must be the lines"),
        (
            [GOOD[0] | {"input": 'User Preference: Alien\nUser Unpreference: \nWill they like "Up"?'}],
            'the liked films \'Alien\' must be written "A", "B"',
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        read_examples(str(path))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        source(str(tmp_path / "none.json")).identity()


PROMPT = (
    "backbone=tiny backbone.max_seq_len=4096 prompt=tallrec_movie shots=16 adapter=lora adapter.num_layers=1 "
    "batch_size=8 optimizer.lr=0.1 trainer.max_epochs=1"
)


@pytest.mark.parametrize("arm", ["baseline=bias baseline.latest=4", "encoder=mean", PROMPT])
def test_examples_kept_apart_score_as_if_they_had_been_there(
    small: Callable[..., DictConfig], file: str, tmp_path: Path, arm: str
) -> None:
    config = small(
        "dataset=tallrec_movie", f"dataset.interactions={file}", "split=example_users", "split.test=0.3",
        "task=pointwise", "history=earlier", f"run.dir={tmp_path}/run", *arm.split(),
    )  # fmt: skip
    folder = train(config, progress=False)
    own = pl.read_parquet(folder / "rows.parquet")
    tested = own["user_id"].unique().to_list()
    known = read_examples(file).with_columns(asked=pl.col("timestamp") >= 0)
    assert len(own) == len(known.filter("asked", pl.col("user_id").is_in(tested)))

    others = {user + 30: films(user + 30, 12) for user in range(3)}
    apart = written(tmp_path / "apart.json", [row for rated in others.values() for row in windows(rated)])
    metrics = evaluate_apart(folder, str(small().cache), apart)
    scored = pl.read_parquet(next((folder / "apart").glob("*/rows.parquet")))
    assert scored["user_id"].n_unique() == 3
    assert metrics["test/auc"] == pytest.approx(roc_auc_score(scored["label"], scored["score"]), abs=1e-12)
    assert scored["score"].n_unique() > 3  # the lists of users who never trained are read

    half = [row for user in range(5) for row in windows(USERS[user])]
    with pytest.raises(UserError, match="changes the training rows"):
        evaluate_apart(folder, str(small().cache), written(tmp_path / "half.json", half))
