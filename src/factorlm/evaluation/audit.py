"""Ways in which a number can be wrong, each looked for in a finished evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from factorlm.backbones.prompting import PromptScorer
from factorlm.data.prepared import Prepared
from factorlm.data.rules import PARTS
from factorlm.evaluation.base import Evaluation
from factorlm.evaluation.histories import first_times
from factorlm.evaluation.pointwise import PointwiseEvaluator, RowTask
from factorlm.evaluation.ranking import RankingEvaluator, RankingTask, batch_scores
from factorlm.metrics.ranks import positive_ranks, top_scores
from factorlm.runs.identity import digest
from factorlm.scoring import Scorer

Level = Literal["pass", "warn", "fail"]
OVERLAP = 0.8  # share of a list that popularity alone would give, from which on it is called popularity
TIES = 0.01  # share of users or rows with ties, from which on they are worth a warning
MANY = 0.05  # share of users with one score for everything, from which on the run fails
DEPTH = 10


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, what was found, and why it matters."""

    check: str
    level: Level
    found: str
    why: str


@dataclass(frozen=True)
class Audited:
    """What a run left and what its checkpoint gives now.

    Attributes:
        record: of the run.
        protocol: that its config and data give now.
        code: version of the code that determines results, now.
        prepared: its data.
        per_user, table: the tables in its folder.
        again: the same evaluation, made anew from the checkpoint.
        evaluator, scorer: what made it.
        prompts: what the model asks a language model with; None: it does not.
        contexts: what the model reads of each user index beside its id, by field: a text, or several values.
    """

    record: dict[str, Any]
    protocol: dict[str, Any]
    code: str
    prepared: Prepared
    per_user: pl.DataFrame
    table: pl.DataFrame
    again: Evaluation
    evaluator: RankingEvaluator | PointwiseEvaluator
    scorer: Scorer
    prompts: PromptScorer | None
    contexts: dict[str, list[str | list[str]]]


def audit(run: Audited) -> Iterator[Finding]:
    """Make every check that applies to the run, one after the other."""
    checks: tuple[Callable[[Audited], Finding], ...] = (
        fingerprint, ordering, leakage, own_future, overlap, rows, repeatable, order, ties, degenerate, popularity,
        context, test_use,
    )  # fmt: skip
    if isinstance(run.evaluator, RankingEvaluator):
        checks += (lists,)
    if run.prompts is not None:
        checks += (prompts,)
    for check in checks:
        yield check(run)


def fingerprint(run: Audited) -> Finding:
    """The protocol in the record is the one that was hashed, and the one that config and data give."""
    hashed, recorded = digest(run.record["protocol"]), run.record["fingerprint"]
    other = [part for part, value in run.protocol.items() if run.record["protocol"].get(part) != value]
    found = f"the fingerprint is {recorded}"
    if hashed != recorded:
        found = f"the record was edited: its protocol hashes to {hashed} and the fingerprint is {recorded}"
    elif other:
        found = f"config and data of the run give another {', '.join(other)} than its record says"
    return Finding(
        "fingerprint",
        "fail" if other or hashed != recorded else "pass",
        found,
        "runs are comparable by their fingerprint; one that is not its own pairs what must not be paired",
    )


def ordering(run: Audited) -> Finding:
    """Targets that only the order of equal times in the source decides."""
    share = run.prepared.split.report["ambiguous_targets"]
    return Finding(
        "order of equal times",
        "warn" if share > TIES else "pass",
        f"{share:.1%} of validation and test rows would change if equal times stood in another order in the source",
        "another copy of the data, or a sort that is not stable, gives another test part, and leakage cannot be told",
    )


def leakage(run: Audited) -> Finding:
    """Training interactions later than a test interaction."""
    later = run.prepared.split.report["leakage"]["after_test"]
    return Finding(
        "leakage over time",
        "warn" if later > 0 else "pass",
        f"{later:.1%} of training interactions are later than a test interaction, on average",
        "a model that has seen the future of others scores higher than it would in use; split=global_time has none",
    )


def own_future(run: Audited) -> Finding:
    """Test interactions of users who have a later training interaction."""
    share = run.prepared.split.report["leakage"]["own_future"]
    return Finding(
        "own future",
        "warn" if share > 0 else "pass",
        f"{share:.1%} of test interactions come before a training interaction of the same user",
        "the model is trained on what the user did afterwards",
    )


def prompts(run: Audited) -> Finding:
    """Items in the prompts of test rows that are the asked one, or that the user met later."""
    assert run.prompts is not None
    assert isinstance(run.evaluator, PointwiseEvaluator)
    split, places, task = run.prepared.split, run.prepared.positions, run.evaluator.task("test")
    met = {
        (user, item): time for user, item, time in first_times(run.prepared).select("user", "item", "time").iter_rows()
    }
    histories = [run.prompts.written(task.contexts, place) for place in range(len(task.contexts))]
    same = later = 0
    asked = zip(task.places.tolist(), task.items[task.item_places].tolist(), places[split.rows["test"]], strict=True)
    for context, item, place in asked:
        user = int(task.contexts.users[context])
        same += item in histories[context]
        later += any(met[user, other] > place for other in histories[context])
    return Finding(
        "prompts", "warn" if same or later else "pass",
        f"of {len(task)} test rows {same} are asked of an item that stands in their history, and {later} show items "
        "that the user met later",
        "the prompt gives away what it asks; split=global_time or user_time shows no later items",
    )  # fmt: skip


def overlap(run: Audited) -> Finding:
    """Pairs of user and item that are trained on and tested."""
    split, size = run.prepared.split, len(run.prepared.tables.items)
    pairs = {part: split.users[part] * size + split.items[part] for part in PARTS}
    both = int(np.isin(pairs["test"], np.concatenate([pairs["train"], pairs["valid"]])).sum())
    bad: Level = "fail" if isinstance(run.evaluator, RankingEvaluator) else "warn"
    return Finding(
        "train-test overlap",
        bad if both else "pass",
        f"{both} test rows repeat a pair of user and item from training or validation",
        "what was learned by heart is no evidence of anything",
    )


def rows(run: Audited) -> Finding:
    """Every test user, or row, once; and the means are those of the record."""
    split = run.prepared.split
    ids = run.prepared.frames["user"]["user_id"].gather(pl.Series(np.unique(split.users["test"])))
    found = run.per_user["user_id"]
    wrong = [
        f"{number} {what}"
        for number, what in (
            (int(found.is_duplicated().sum()), "users stand twice in per_user.parquet"),
            (int((~ids.is_in(found.implode())).sum()), "test users are missing"),
            (int((~found.is_in(ids.implode())).sum()), "users are not in the test part"),
        )
        if number
    ]
    if isinstance(run.evaluator, PointwiseEvaluator) and len(run.table) != len(split.users["test"]):
        wrong.append(f"rows.parquet has {len(run.table)} rows and the test part {len(split.users['test'])}")
    for name in run.per_user.columns[2:]:
        mean, recorded = run.per_user[name].mean(), run.record["metrics"].get(f"test/{name}")
        if recorded is not None and not (isinstance(mean, float) and abs(mean - recorded) < 1e-9):
            wrong.append(f"the mean of {name} is {mean!r} and the record says {recorded!r}")
            break
    return Finding(
        "rows",
        "fail" if wrong else "pass",
        "; ".join(wrong) or f"each of {len(found)} test users once, and their means are those of the record",
        "a user lost or counted twice changes every number, and pairs the wrong users in a comparison",
    )


def repeatable(run: Audited) -> Finding:
    """The checkpoint gives what is in the folder."""
    wrong = []
    if not run.again.per_user.sort("user_id").equals(run.per_user.sort("user_id")):
        wrong.append("values of users in per_user.parquet")
    if not run.again.table.equals(run.table):
        wrong.append(f"rows in {run.again.table_name}.parquet")
    wrong += [name for name, value in run.again.named("test").items() if run.record["metrics"].get(name) != value]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    because = "" if run.record.get("code") == run.code else "; the code has changed since"
    return Finding(
        "repeatable",
        "fail" if wrong else "pass",
        f"the checkpoint gives other {', '.join(wrong[:3])}{more} than the run{because}"
        if wrong
        else "the checkpoint gives the same values and the same lists or scores, bit by bit",
        "a result that its own weights do not give cannot be checked by anybody",
    )


def order(run: Audited) -> Finding:
    """Candidates shuffled, users in other batches: the same values."""
    generator = torch.Generator().manual_seed(0)
    evaluator, task = run.evaluator, run.evaluator.task("test")
    if isinstance(task, RankingTask):
        assert isinstance(evaluator, RankingEvaluator)
        one = _ranked(evaluator, run.scorer, task, evaluator.batch_size)
        two = _ranked(evaluator, run.scorer, shuffled(task, generator), 37)
        differ = ((one != two) & ~(one.isnan() & two.isnan())).any(1)
        what = "users change when candidates are shuffled and users scored in batches of 37"
    else:
        assert isinstance(task, RowTask)
        places = torch.randperm(len(task), generator=generator)
        mixed = replace(
            task, places=task.places[places], item_places=task.item_places[places], labels=task.labels[places]
        )
        differ = task.scored(run.scorer, len(task))[places] != mixed.scored(run.scorer, 37)
        what = "rows change when rows are shuffled and scored in batches of 37"
    number = int(differ.sum())
    return Finding(
        "order", "fail" if number else "pass", f"{number} of {len(differ)} {what}",
        "a value that depends on the order of the data is partly a property of the file",
    )  # fmt: skip


def ties(run: Audited) -> Finding:
    """Users, or rows, whose values rest on how ties are broken."""
    task = run.evaluator.task("test")
    if isinstance(task, RankingTask):
        tied = torch.zeros(len(task.contexts), dtype=torch.bool)
        for batch, scores in _batches(run, task):
            top = top_scores(scores, DEPTH)
            ranks = positive_ranks(scores, top, batch.rows, batch.columns)
            tied[batch.places[batch.rows[(ranks.tied > 1) & (ranks.higher < DEPTH)]]] = True
        share, what = float(tied.double().mean()), f"of users have a relevant item that is tied within rank {DEPTH}"
    else:
        share, what = (
            int(run.again.table["score"].is_duplicated().sum()) / len(run.again.table),
            "of rows share their score with another",
        )
    return Finding(
        "ties",
        "warn" if share > TIES else "pass",
        f"{share:.1%} {what}",
        "here they count with their expectation; a tool that breaks them by position or id reports another number",
    )


def degenerate(run: Audited) -> Finding:
    """Scores that say nothing; who has one candidate only is left out."""
    task = run.evaluator.task("test")
    if isinstance(task, RankingTask):
        constant = 0
        for _, scores in _batches(run, task):
            low = scores.masked_fill(scores == -torch.inf, torch.inf).amin(1)
            constant += int(((low == scores.amax(1)) & (scores.isfinite().sum(1) > 1)).sum())
        share, what = constant / len(task), "of users get one score for all candidates"
    else:
        share, what = float(run.again.table["score"].n_unique() == 1), "of rows have one and the same score"
    return Finding(
        "degenerate scores",
        "fail" if share > MANY else "warn" if share > 0 else "pass",
        f"{share:.1%} {what}",
        "such lists are chance, however good the mean looks",
    )


def popularity(run: Audited) -> Finding:
    """How far popularity explains what is recommended."""
    split = run.prepared.split
    counts = np.bincount(split.items["train"], minlength=len(run.prepared.tables.items))
    task = run.evaluator.task("test")
    if isinstance(task, RankingTask):
        popular = torch.from_numpy(counts[task.candidates.numpy()]).double()
        shares = []
        for _, scores in _batches(run, task):
            allowed = torch.where(scores.isfinite(), popular, -torch.inf)
            own, best = top_scores(scores, DEPTH).columns, top_scores(allowed, DEPTH)
            both = (own.unsqueeze(2) == best.columns.unsqueeze(1)).any(2).double().mean(1)
            told = (allowed > best.values[:, -1:]).any(1) & (scores.isfinite().sum(1) > 2 * DEPTH)
            shares.append(both[told])
        share = float(torch.cat(shares).nanmean().nan_to_num(0))
        users = len(torch.cat(shares))
        found = f"{share:.0%} of the first {DEPTH} items are those that popularity alone would recommend"
        if users < len(task):
            found += f", to {users} of {len(task)}: the others have few candidates, or equally popular ones"
    else:
        item_counts = pl.Series(counts[split.items["test"]])
        share = abs(float(pl.select(pl.corr(run.again.table["score"], item_counts, method="spearman")).item() or 0.0))
        found = f"rank correlation of scores with the item's training rows is {share:.2f}"
    return Finding(
        "popularity",
        "warn" if share >= OVERLAP else "pass",
        found,
        "a model that repeats popularity is no better personalized than a list of bestsellers",
    )


def context(run: Audited) -> Finding:
    """Whether what the model reads about a user names what it is asked for: its title in a text, or it among values."""
    items, split = run.prepared.frames["item"], run.prepared.split
    why = "a context that contains the answer tests reading, not recommending"
    if not run.contexts:
        return Finding("context names the target", "pass", "the model reads nothing about users but their id", why)
    title = next((column for column in ("title", "text") if column in items.columns), "item_id")
    names = [tuple(str(name or "").casefold() for name in row) for row in items.select(title, id="item_id").rows()]
    pairs = list(zip(split.users["test"].tolist(), split.items["test"].tolist(), strict=True))
    named = sum(any(_names(context[user], *names[item]) for context in run.contexts.values()) for user, item in pairs)
    fields = ", ".join(run.contexts)
    found = f"{named} of {len(pairs)} test interactions are named in what the model reads of their user ({fields})"
    return Finding("context names the target", "fail" if named else "pass", found, why)


def _names(context: str | list[str], title: str, item_id: str) -> bool:
    """Whether a text holds the title, of more than three letters, or several values hold the title or the id."""
    if isinstance(context, str):
        return len(title) > 3 and title in context.casefold()
    return any(value.casefold() in (title, item_id) for value in context)


def test_use(run: Audited) -> Finding:
    """How often the test part was looked at."""
    times = run.record.get("test_evaluations", 0)
    return Finding(
        "use of test",
        "warn" if times > 1 else "pass",
        f"the test part was evaluated {times} time{'s' * (times != 1)}",
        "choices made after looking at test turn it into a second validation part",
    )


def lists(run: Audited) -> Finding:
    """Recommended lists hold each item once, and only candidates."""
    task = run.evaluator.task("test")
    assert isinstance(task, RankingTask)
    key = "query" if "query" in run.table.columns else "user_id"
    frames = run.prepared.frames
    repeated = int(run.table.select(key, "item_id").is_duplicated().sum())
    candidates = frames["item"]["item_id"].gather(pl.Series(task.candidates.numpy()))

    def of(pairs: tuple[Tensor, Tensor]) -> pl.DataFrame:
        """Rows of the table that are among pairs of question and column."""
        users = frames["user"]["user_id"].gather(pl.Series(task.contexts.users[task.places[pairs[0]]].numpy()))
        asked = {"query": pl.Series(pairs[0].numpy()), "user_id": users}[key]
        named = pl.DataFrame({key: asked, "item_id": candidates.gather(pl.Series(pairs[1].numpy()))})
        return run.table.join(named, on=[key, "item_id"], how="semi")

    known = of(task.listed) if len(task.listed[0]) else run.table.filter(pl.col("item_id").is_in(candidates.implode()))
    strange, seen = len(run.table) - len(known), len(of(task.excluded))
    wrong = [
        f"{number} {what}"
        for number, what in (
            (repeated, "entries repeat an item"),
            (strange, "entries are no candidates"),
            (seen, "entries are excluded items"),
        )
        if number
    ]
    return Finding(
        "recommended lists",
        "fail" if wrong else "pass",
        "; ".join(wrong) or f"{len(run.table)} entries, each a candidate of its user, none twice",
        "an item that fills two places, or that the user has already, takes the place of one that could be right",
    )


def _batches(run: Audited, task: RankingTask) -> Iterator[tuple[Any, Tensor]]:
    catalogue = run.scorer.catalogue(task.contexts, task.candidates)
    for batch in task.batches(run.evaluator.batch_size):
        yield batch, batch_scores(catalogue, batch)


def shuffled(task: RankingTask, generator: torch.Generator) -> RankingTask:
    """The same problem with its candidates in another order."""
    places = torch.randperm(len(task.candidates), generator=generator)
    moved = torch.empty_like(places)
    moved[places] = torch.arange(len(places))
    queries, columns, items, grades = task.positives
    return replace(
        task,
        candidates=task.candidates[places],
        positives=(queries, torch.where(columns < 0, columns, moved[columns]), items, grades),
        excluded=(task.excluded[0], moved[task.excluded[1]]),
        listed=(task.listed[0], moved[task.listed[1]]),
    )


def _ranked(evaluator: RankingEvaluator, scorer: Scorer, task: RankingTask, size: int) -> Tensor:
    """Values of each user [V, M]."""
    metrics, catalogue = evaluator.fresh(), scorer.catalogue(task.contexts, task.candidates)
    for batch in task.batches(size):
        scores = batch_scores(catalogue, batch)
        metrics.update(batch.queries, batch.users, scores, batch.rows, batch.columns, batch.grades)
    return metrics.per_user()[1]
