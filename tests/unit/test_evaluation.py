"""Evaluation against definitions written out, on scores that are fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from factorlm.config.build import cache_dir, make_data
from factorlm.config.evaluator import make_evaluator
from factorlm.config.model import make_model
from factorlm.data.prepared import Prepared, load_prepared, prepare
from factorlm.data.tables import frame
from factorlm.errors import UserError
from factorlm.evaluation.audit import shuffled
from factorlm.evaluation.base import Evaluation
from factorlm.evaluation.candidates import Full
from factorlm.evaluation.pointwise import PointwiseEvaluator
from factorlm.evaluation.ranking import RankingEvaluator, rank, ranking_task
from factorlm.scoring import Contexts, Scorer

Compose = Callable[..., DictConfig]


@dataclass(frozen=True)
class Fixed:
    """A scorer with a score for every pair of user and item index."""

    scores_UI: Tensor

    def catalogue(self, contexts: Contexts, items: Tensor) -> FixedCatalogue:
        return FixedCatalogue(self.scores_UI[contexts.users][:, items])


@dataclass(frozen=True)
class FixedCatalogue:
    scores_VN: Tensor

    def cross(self, users: Tensor) -> Tensor:
        return self.scores_VN[users]

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        return self.scores_VN[users, items]


def opened(config: DictConfig) -> Prepared:
    return load_prepared(prepare(*make_data(config), cache_dir(config))[0])


def ranking(config: DictConfig) -> RankingEvaluator:
    evaluator = make_evaluator(config, opened(config))
    assert isinstance(evaluator, RankingEvaluator)
    return evaluator


def fixed(prepared: Prepared) -> Fixed:
    """Random scores, all different."""
    shape = len(prepared.tables.users), len(prepared.tables.items)
    order = torch.randperm(shape[0] * shape[1], generator=torch.Generator().manual_seed(3))
    return Fixed(order.view(shape).float())


def learned(config: DictConfig, prepared: Prepared) -> Scorer:
    """A real model with weights that matter."""
    model = make_model(config, prepared)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()


def ordered_items(scores: Tensor, user: int, candidates: set[int]) -> list[int]:
    return sorted(candidates, key=lambda item: -scores[user, item].item())


def accuracy(ranked: list[int], wanted: set[int], k: int) -> dict[str, float]:
    """By definition, for a list without ties."""
    hits = [item in wanted for item in ranked[:k]]
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(wanted))))
    return {
        f"precision@{k}": sum(hits) / k,
        f"recall@{k}": sum(hits) / len(wanted),
        f"f1@{k}": 2 * sum(hits) / (k + len(wanted)),
        f"ndcg@{k}": sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits)) / ideal,
        f"hit@{k}": float(any(hits)),
        f"mrr@{k}": next((1 / (rank + 1) for rank, hit in enumerate(hits) if hit), 0.0),
        f"map@{k}": sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit) / len(wanted),
    }


def by_user(evaluation: Evaluation, prepared: Prepared) -> dict[int, dict[str, float | None]]:
    index = {name: place for place, name in enumerate(prepared.frames["user"]["user_id"])}
    return {index[row["user_id"]]: row for row in evaluation.per_user.iter_rows(named=True)}


def parts_of(prepared: Prepared, part: str) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for user, item in zip(prepared.split.users[part].tolist(), prepared.split.items[part].tolist(), strict=True):
        found.setdefault(user, set()).add(item)
    return found


@pytest.mark.parametrize("part", ["valid", "test"])
def test_every_user_equals_the_definition(small: Compose, part: str) -> None:
    evaluator = ranking(small())
    prepared = evaluator.prepared
    scorer = fixed(prepared)
    evaluation = evaluator.evaluate(scorer, part)
    wanted, train, valid = (parts_of(prepared, name) for name in (part, "train", "valid"))
    found, lists = by_user(evaluation, prepared), dict(evaluation.table.group_by("user_id", maintain_order=True))
    assert set(found) == set(wanted)
    ids = prepared.frames["item"]["item_id"]
    for user, items in wanted.items():
        had = train[user] | (valid.get(user, set()) if part == "test" else set())
        ranked = ordered_items(scorer.scores_UI, user, set(prepared.split.candidates[part].tolist()) - had)
        for k in (5, 10, 20):
            expected = accuracy(ranked, items, k)
            assert {name: found[user][name] for name in expected} == pytest.approx(expected, abs=1e-12)
        own = lists[(found[user]["user_id"],)]
        assert own["item_id"].to_list() == [ids[item] for item in ranked[:20]]
        assert own["rank"].to_list() == list(range(1, 21))
        assert found[user]["train_interactions"] == len(train[user])


def test_the_mean_over_users_is_the_metric(small: Compose) -> None:
    evaluator = ranking(small("metrics.slices=[topic]", "metrics.diversity=topic", "split.cold_items=keep"))
    evaluation = evaluator.evaluate(fixed(evaluator.prepared), "test")
    named = [name for name in evaluation.values if not name.startswith(("coverage", "gini"))]
    assert set(evaluation.per_user.columns) == {"user_id", "train_interactions", *named}
    for name in named:
        assert evaluation.per_user[name].mean() == pytest.approx(evaluation.values[name], abs=1e-12), name


def test_successive_targets_are_questions_of_their_own(small: Compose) -> None:
    common = ["split.target=successive", "split.test=0.3", "split.valid=0.2"]
    evaluator = ranking(small(*common))
    prepared = evaluator.prepared
    scorer = fixed(prepared)
    evaluation = evaluator.evaluate(scorer, "test")
    users, items = (
        {name: i for i, name in enumerate(prepared.frames[side][f"{side}_id"])} for side in ("user", "item")
    )
    test = {(u, i) for u, own in parts_of(prepared, "test").items() for i in own}
    values: dict[int, list[float]] = {}
    several = 0
    log = frame(prepared.tables.interactions).sort("user_id", "timestamp", maintain_order=True)
    trained = set(prepared.split.items["train"].tolist())
    for (name,), own in log.group_by("user_id", maintain_order=True):
        user, had = users[name], set()
        for item in (items[identifier] for identifier in own["item_id"]):
            if (user, item) in test:
                ranked = ordered_items(scorer.scores_UI, user, trained - had)
                values.setdefault(user, []).append(accuracy(ranked, {item}, 10)["ndcg@10"])
            had.add(item)
        several += len(values.get(user, [])) > 1
    assert several > 100
    found = by_user(evaluation, prepared)
    assert {user: row["ndcg@10"] for user, row in found.items()} == pytest.approx(
        {user: np.mean(own) for user, own in values.items()}, abs=1e-12
    )
    assert evaluation.values["ndcg@10"] == pytest.approx(np.mean([np.mean(own) for own in values.values()]))
    assert evaluation.table["query"].n_unique() == len(test)
    whole = ranking(small("split.test=0.3", "split.valid=0.2")).evaluate(scorer, "test")
    assert "query" not in whole.table.columns
    assert whole.values["ndcg@10"] != evaluation.values["ndcg@10"]


def test_slices_count_some_positives_and_all_candidates(small: Compose) -> None:
    evaluator = ranking(small(
        "split.cold_items=keep", "dataset.num_items=400", "dataset.interactions_per_user=8",
        "metrics.slices=[topic,tags,price,train_interactions]",
    ))  # fmt: skip
    prepared = evaluator.prepared
    scorer = fixed(prepared)
    evaluation = evaluator.evaluate(scorer, "test")
    items = prepared.frames["item"]
    counts = np.bincount(prepared.split.items["train"], minlength=len(items))
    warm = np.flatnonzero(counts)
    head = set(sorted(warm, key=lambda item: (-counts[item], item))[: math.ceil(0.2 * len(warm))])
    inside = {
        "warm": set(warm),
        "cold": set(np.flatnonzero(counts == 0)),
        "head": head,
        "tail": set(warm) - head,
        "topic=horses": {i for i, topic in enumerate(items["topic"]) if topic == "horses"},
        "tags=crime": {i for i, tags in enumerate(items["tags"]) if "crime" in tags},
        "tags=book": set(range(len(items))),
        "price=7.0": {i for i, price in enumerate(items["price"]) if price == 7.0},
        "train_interactions=0": set(np.flatnonzero(counts == 0)),
        "train_interactions=1-4": set(np.flatnonzero((counts >= 1) & (counts <= 4))),
        "train_interactions=5-19": set(np.flatnonzero((counts >= 5) & (counts <= 19))),
    }
    wanted, train, valid = (parts_of(prepared, name) for name in ("test", "train", "valid"))
    found = by_user(evaluation, prepared)
    for name, chosen in inside.items():
        for user, own in wanted.items():
            had = train[user] | valid.get(user, set())
            candidates = set(prepared.split.candidates["test"].tolist()) - had
            alike = candidates & chosen if name.startswith("train_interactions") else candidates
            ranked = ordered_items(scorer.scores_UI, user, alike)
            expected = accuracy(ranked, own & chosen, 20)["ndcg@20"] if own & chosen else None
            assert found[user][f"ndcg@20/{name}"] == (expected and pytest.approx(expected, abs=1e-12)), (name, user)
    assert evaluation.values["ndcg@20/tags=book"] == evaluation.values["ndcg@20"]
    assert {name.rpartition("=")[2] for name in evaluation.values if "/topic=" in name} == set(items["topic"])


def test_bins_of_training_interactions_come_in_order_and_are_part_of_the_protocol(small: Compose) -> None:
    evaluator = ranking(small(
        "split=global_time", "split.cold_items=keep", "split.valid=0.2", "split.test=0.3", "dataset.num_users=400",
        "metrics.slices=[train_interactions]",
    ))  # fmt: skip
    names = evaluator.evaluate(fixed(evaluator.prepared), "test").values
    bins = [name.rpartition("=")[2] for name in names if name.startswith("ndcg@10/train_interactions=")]
    assert bins == sorted(bins, key=("0", "1-4", "5-19", "20+").index)
    assert {"5-19", "20+"} <= set(bins)
    assert "sliced by train_interactions 0 1-4 5-19 20+" in evaluator.definitions
    assert evaluator.definitions != ranking(small()).definitions


def test_slices_without_positives_are_left_out(small: Compose) -> None:
    evaluator = ranking(small("metrics.slices=[topic]", "dataset.num_users=8"))
    names = evaluator.evaluate(fixed(evaluator.prepared), "test").values
    assert not any(name.endswith(("/warm", "/cold")) for name in names)  # all positives are warm
    prepared = evaluator.prepared
    topics = set(prepared.frames["item"]["topic"].gather(pl.Series(prepared.split.items["test"])))
    assert {name.rpartition("=")[2] for name in names if "/topic=" in name} == topics
    assert topics < set(prepared.frames["item"]["topic"])


@pytest.mark.parametrize("column", ["topic", "tags"])
def test_diversity_is_one_minus_cosine_over_pairs(small: Compose, column: str) -> None:
    evaluator = ranking(small(f"metrics.diversity={column}"))
    evaluation = evaluator.evaluate(fixed(evaluator.prepared), "test")
    values = dict(evaluator.prepared.frames["item"].select("item_id", column).iter_rows())
    sets = {item: set(value if isinstance(value, list) else [value]) for item, value in values.items()}
    expected = {
        name: np.mean([
            1 - len(sets[a] & sets[b]) / math.sqrt(len(sets[a]) * len(sets[b]))
            for a, b in combinations(own["item_id"][:10], 2)
        ])
        for (name,), own in evaluation.table.group_by("user_id", maintain_order=True)
    }  # fmt: skip
    found = dict(evaluation.per_user.select("user_id", "diversity@10").iter_rows())
    assert found == pytest.approx(expected, abs=1e-6)
    assert "diversity@10" not in ranking(small()).evaluate(fixed(evaluator.prepared), "test").values


MODELS = {
    "ids": [],
    "side": ["metrics.slices=[topic]", "fields=side", "fields.genres.column=tags", "fields.year.column=topic"],
    "text": ["backbone=tiny", "model.num_factors=33"],
    "bias": ["baseline=bias"],
    "uniform": ["candidates=uniform", "candidates.num=7"],
    "successive": ["split.target=successive", "split.test=0.3"],
    "odd": ["dataset.num_items=211", "dataset.num_users=77", "model.num_factors=7", "split.cold_items=keep"],
}


@pytest.mark.parametrize("name", MODELS)
def test_batch_sizes_and_order_change_no_bit(small: Compose, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("dataset.num_users=90", "metrics.ks=[10]", "metrics.diversity=tags", *MODELS[name])
    evaluator = ranking(config)
    scorer = learned(config, evaluator.prepared)
    with torch.no_grad():
        reference = evaluator.evaluate(scorer, "test")
        for size in (1, 7):
            other = replace(evaluator, batch_size=size).evaluate(scorer, "test")
            assert other.per_user.equals(reference.per_user), size
            assert other.values == pytest.approx(reference.values, rel=1e-12, nan_ok=True)
            if name != "bias":  # whose ties come in any order
                assert other.table.equals(reference.table), size
        generator = torch.Generator().manual_seed(1)
        plain, moved = evaluator.task("test"), shuffled(evaluator.task("test"), generator)
        assert not torch.equal(moved.candidates, plain.candidates)
        monkeypatch.setattr(RankingEvaluator, "task", lambda self, part: moved)
        assert evaluator.evaluate(scorer, "test").per_user.equals(reference.per_user)


def test_scores_of_candidates_follow_their_order(small: Compose) -> None:
    config = small("dataset.num_items=331", "dataset.interactions_per_user=30")
    evaluator = ranking(config)
    task, scorer = evaluator.task("test"), learned(config, evaluator.prepared)
    places = torch.randperm(len(task.candidates), generator=torch.Generator().manual_seed(1))
    rows = torch.randperm(len(task.contexts), generator=torch.Generator().manual_seed(2))[:77]
    with torch.no_grad():
        plain = scorer.catalogue(task.contexts, task.candidates).cross(torch.arange(len(task.contexts)))
        moved = scorer.catalogue(task.contexts, task.candidates[places]).cross(rows)
    assert torch.equal(moved, plain[rows][:, places])


def test_pointwise_batch_sizes_change_no_bit(small: Compose) -> None:
    config = small("task=pointwise", "fields=side", "fields.genres.column=tags", "fields.year.column=topic")
    evaluator = make_evaluator(config, opened(config))
    assert isinstance(evaluator, PointwiseEvaluator)
    scorer = learned(config, evaluator.prepared)
    with torch.no_grad():
        reference = evaluator.evaluate(scorer, "test")
        for size in (1, 7):
            other = replace(evaluator, batch_size=size).evaluate(scorer, "test")
            assert other.per_user.equals(reference.per_user)
            assert other.table.equals(reference.table)
            assert other.values == reference.values


def test_the_order_of_the_file_changes_no_bit(small: Compose, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pairs = [(f"u{u}", f"i{i}") for u in range(40) for i in generator.choice(60, 10, replace=False)]
    table = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    table = table.with_columns(timestamp=pl.Series(generator.permutation(len(table))))
    results = []
    for seed in (1, 2):
        path = tmp_path / f"log{seed}.csv"
        table.sample(fraction=1, shuffle=True, seed=seed).write_csv(path)
        config = small("dataset=files", f"dataset.interactions={path}", "baseline=bias")
        evaluator = ranking(config)
        results.append(evaluator.evaluate(fixed(evaluator.prepared), "test"))
    assert results[0].per_user.equals(results[1].per_user)
    assert results[0].table.equals(results[1].table)
    assert results[0].values == results[1].values


def test_uniform_candidates(small: Compose) -> None:
    config = small("candidates=uniform", "candidates.num=9")
    evaluator = ranking(config)
    prepared = evaluator.prepared
    scorer = fixed(prepared)
    evaluation = evaluator.evaluate(scorer, "test")
    accurate = [name for name in evaluation.values if name.startswith("ndcg")]
    assert accurate[0] == "ndcg@5/uni9"
    assert all("/uni9" in name for name in evaluation.values)
    assert {"ndcg@10/uni9/head", "ndcg@10/uni9/tail"} <= set(accurate)
    task = evaluator.task("test")
    wanted = parts_of(prepared, "test")
    ever: dict[int, set[int]] = {}
    for part in ("train", "valid", "test"):
        for user, items in parts_of(prepared, part).items():
            ever.setdefault(user, set()).update(items)
    listed: dict[int, set[int]] = {}
    for query, column in zip(*(pairs.tolist() for pairs in task.listed), strict=True):
        user = int(task.contexts.users[task.places[query]])
        item = int(task.candidates[column])
        assert item not in listed.setdefault(user, set())
        listed[user].add(item)
    found = by_user(evaluation, prepared)
    for user, items in wanted.items():
        assert items <= listed[user]
        drawn = listed[user] - items
        assert len(drawn) == 9
        assert not drawn & ever[user]
        assert drawn <= set(prepared.split.candidates["test"].tolist())
        expected = accuracy(ordered_items(scorer.scores_UI, user, listed[user]), items, 5)["ndcg@5"]
        assert found[user]["ndcg@5/uni9"] == pytest.approx(expected, abs=1e-12)
    everything = set(prepared.split.candidates["test"].tolist())
    assert set().union(*(listed[user] - items for user, items in wanted.items())) == everything  # each its own draw
    assert ranking(config).evaluate(scorer, "test").per_user.equals(evaluation.per_user)
    other = ranking(small("candidates=uniform", "candidates.num=9", "candidates.seed=1"))
    assert not other.evaluate(scorer, "test").per_user.equals(evaluation.per_user)
    assert other.protocol() != evaluator.protocol()


def test_more_uniform_candidates_than_there_are(small: Compose) -> None:
    evaluator = ranking(small("candidates=uniform", "candidates.num=100000"))
    size = len(evaluator.prepared.split.candidates["test"])
    number = torch.bincount(evaluator.task("test").listed[0])
    assert (number == size - (12 - 2)).all()  # all but what users had in train and valid, or cold: see the next line
    with pytest.raises(UserError, match="candidates.num=0: it must be 1 or more"):
        ranking(small("candidates=uniform", "candidates.num=0"))


def listing(prepared: Prepared, path: Path) -> dict[int, set[int]]:
    """A file with the positives of validation and test and three more for each user."""
    chosen = {
        user: parts_of(prepared, "valid").get(user, set())
        | parts_of(prepared, "test").get(user, set())
        | {1, 2, user % 9}
        for user in range(len(prepared.tables.users))
    }
    write_listing(prepared, path, [(user, item) for user, items in chosen.items() for item in items])
    return chosen


def write_listing(prepared: Prepared, path: Path, pairs: list[tuple[int, int]]) -> None:
    users, items = (prepared.frames[side][f"{side}_id"] for side in ("user", "item"))
    rows = [f"{users[user]},{items[item]}\n" for user, item in pairs]
    path.write_text("user_id,item_id\n" + "".join(rows))


def test_listed_candidates(small: Compose, tmp_path: Path) -> None:
    prepared = opened(small())
    path = tmp_path / "mine.csv"
    chosen = listing(prepared, path)
    wanted = parts_of(prepared, "test")
    missed = next(user for user, items in wanted.items() if len(items) > 1)
    absent = min(wanted[missed] - {1, 2, missed % 9})
    chosen[missed].remove(absent)
    write_listing(prepared, path, [(user, item) for user, items in chosen.items() for item in items])
    evaluator = ranking(small("candidates=listed", f"candidates.path={path}"))
    scorer = fixed(prepared)
    evaluation = evaluator.evaluate(scorer, "test")
    assert "ndcg@10/listed" in evaluation.values
    found = by_user(evaluation, prepared)
    for user, items in wanted.items():
        ranked = ordered_items(scorer.scores_UI, user, chosen[user])
        assert found[user]["ndcg@10/listed"] == pytest.approx(accuracy(ranked, items, 10)["ndcg@10"], abs=1e-12)
        assert found[user]["recall@20/listed"] == pytest.approx(len(items & chosen[user]) / len(items))
    assert found[missed]["recall@20/listed"] < 1
    lists = evaluation.table.group_by("user_id").len()["len"]
    assert lists.max() <= 7
    before = evaluator.protocol()["candidates"]
    path.write_text(path.read_text() + "somebody else,i1\n")
    assert evaluator.protocol()["candidates"] != before


def break_unknown(path: Path) -> None:
    path.write_text(path.read_text() + "u1,nothing\nu1,nought\n")


def break_twice(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[5]]) + "\n")


def break_user(path: Path) -> None:
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("u7,")) + "\n")


def break_column(path: Path) -> None:
    path.write_text(path.read_text().replace("item_id", "itemid", 1))


MISTAKES = {
    break_unknown: r"mine.csv: data row \d+ \(user_id=u1, item_id=nothing\) names an item that is not in the dataset",
    break_twice: r"mine.csv: data row \d+ \(user_id=u\d+, item_id=i\d+\) is listed twice; 2 such rows: remove them",
    break_user: r"mine.csv lists nothing for user u7, who is evaluated; 1 such users: list candidates for each",
    break_column: r"candidates.columns.item=item_id is not in .*mine.csv; .* did you mean 'itemid'",
    Path.unlink: r"no such file: .*mine.csv",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_listed_candidates_that_are_wrong(small: Compose, tmp_path: Path, mistake: Callable[[Path], None]) -> None:
    path = tmp_path / "mine.csv"
    listing(opened(small()), path)
    mistake(path)
    with pytest.raises(UserError, match=MISTAKES[mistake]) as caught:
        ranking(small("candidates=listed", f"candidates.path={path}"))
    assert "\n" not in str(caught.value)


def test_users_never_seen(small: Compose) -> None:
    config = small("split=cold_user")
    evaluator = ranking(config)
    prepared = evaluator.prepared
    trained = set(prepared.split.users["train"].tolist())
    assert not trained & set(prepared.split.users["test"].tolist())
    scorer = learned(config, prepared)
    with torch.no_grad():
        evaluation = evaluator.evaluate(scorer, "test")
    assert evaluation.per_user["train_interactions"].unique().to_list() == [0]
    lists = evaluation.table.group_by("user_id", maintain_order=True).agg("item_id")["item_id"].to_list()
    assert all(one == other for one, other in pairwise(lists))  # nothing is known that could tell them apart
    assert all(0 < evaluation.values[name] < 1 for name in ("ndcg@20", "recall@20"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.negatives=keep"], "dataset.negatives=keep is for task=pointwise: rank with dataset.negatives=drop"),
        (["task=pointwise", "dataset.negatives=drop"], r"all \d+ valid rows have label 1: task=pointwise needs both"),
        (["task=pointwise", "metrics=ranking"], "task=pointwise does not go with RankingMetrics: set metrics="),
        (["metrics=pointwise"], "task=ranking does not go with PointwiseMetrics: set metrics="),
        (["task=pointwise", "candidates=uniform"], "ranks no candidates: set candidates=full"),
        (["task=pointwise", "objective=bpr"], "task=pointwise does not go with BPR: set objective=logloss"),
        (["objective=logloss"], "task=ranking does not go with LogLoss: set objective=full_softmax"),
        (["task=pointwise", "selection=logloss"], "selection=logloss: weights can be selected by auc, uauc"),
        (["selection=auc"], "selection=auc: weights can be selected by precision@5"),
        (["metrics.slices=[none]"], "metrics.slices=none is not in the items table, which has item_id, title"),
        (["metrics.slices=[item_id]"], "metrics.slices: item_id has 120 values, and 30 are the most"),
        (["metrics.diversity=none"], "metrics.diversity=none is not in the items table"),
        (["metrics.ks=[]"], r"metrics.ks=\[\]: give cut-offs of 1 or more"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_training(
    small: Compose, overrides: list[str], message: str
) -> None:
    config = small(*overrides)
    with pytest.raises(UserError, match=message) as caught:
        make_evaluator(config, opened(config))
    assert "\n" not in str(caught.value)


def test_rank(small: Compose) -> None:
    """The best items, without those of the history; -inf where fewer are left."""
    prepared = opened(small())
    scorer = fixed(prepared)
    task = ranking_task(prepared, "test", Full())
    contexts = task.contexts[torch.arange(0, len(task.contexts), 3)]
    candidates = task.candidates[torch.randperm(len(task.candidates))]
    items, scores = rank(scorer, contexts, candidates, 5, batch_size=7)
    for place in range(len(contexts)):
        had = set(contexts.log[contexts.starts[place] : contexts.ends[place]].tolist())
        left = set(candidates.tolist()) - had
        best = ordered_items(scorer.scores_UI, int(contexts.users[place]), left)[:5]
        assert items[place].tolist() == best
        assert scores[place].tolist() == scorer.scores_UI[contexts.users[place], best].tolist()
    few = contexts.log[contexts.starts[0] : contexts.ends[0]]
    assert rank(scorer, contexts[torch.tensor([0])], few, 5)[1].isinf().all()
