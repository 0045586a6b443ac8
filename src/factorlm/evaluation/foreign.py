"""Lists and scores of other systems: TREC files and tables, under our metrics.

Ids are compared as text, so that a TREC file and a table of numbers can be read together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from factorlm.data.reading import ENDINGS, column, existing_file, number, read_table
from factorlm.errors import UserError
from factorlm.evaluation.base import with_values
from factorlm.metrics.accuracy import ranking_names, ranking_values
from factorlm.metrics.rows import row_metrics

BATCH = 2**24  # scores ranked at once
HIGHEST_GRADE = 10  # beyond it a value is a count, no grade
VALUE = "value"  # name of the column of grades that may be missing


@dataclass(frozen=True)
class Scored:
    """One system's result.

    Attributes:
        values: each metric; NaN where it is not defined.
        per_user: ``user_id`` and a column for each metric.
        notes: what a reader has to know about it, one sentence each.
    """

    values: dict[str, float]
    per_user: pl.DataFrame
    notes: list[str]


def read_qrels(path: str, columns: Mapping[str, str], min_value: float) -> pl.DataFrame:
    """The relevant items of each user: ``user_id``, ``item_id`` (text) and ``value``.

    A TREC file has lines ``user iteration item grade``; a table has columns for user, item and perhaps the value.

    Args:
        path: of the file; the ending ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl`` says that it is a table.
        columns: names in a table of ``user``, ``item`` and ``value``.
        min_value: items with a smaller value are not relevant.

    Raises:
        UserError: the file cannot be read, lists a pair twice, or nothing is relevant.
    """
    if Path(path).suffix in ENDINGS:
        table = _table(path, columns, ("user", "item"))
        value = columns["value"]
        if value != VALUE:  # who names it means it
            column(table, value, "columns.value", path)
        values = number(table, value, path) if value in table.columns else pl.Series([1.0] * len(table))
        pairs = _pairs(table, columns).with_columns(value=values)
    else:
        lines = _trec(path, ("user", "iteration", "item", "grade"))
        pairs = lines.select("user_id", "item_id", value=_numeric(lines, 3, path))
    _refuse_infinite(pairs, "value", path)
    _refuse_twice(pairs, path)
    relevant = pairs.filter(pl.col("value") >= min_value)
    if relevant.is_empty():
        raise UserError(f"qrels={path}: no item has a value of min_value={min_value:g} or more; lower it")
    return relevant


def read_run(path: str, columns: Mapping[str, str]) -> pl.DataFrame:
    """The list of each user: ``user_id``, ``item_id`` (text) and ``score``; the larger the score the higher the item.

    A TREC file has lines ``user Q0 item rank score tag``, of which rank and tag are not looked at.

    Raises:
        UserError: the file cannot be read, lists a pair twice, or has a score that is no finite number.
    """
    if Path(path).suffix in ENDINGS:
        table = _table(path, columns, ("user", "item", "score"))
        pairs = _pairs(table, columns).with_columns(score=number(table, columns["score"], path))
    else:
        lines = _trec(path, ("user", "Q0", "item", "rank", "score", "tag"))
        pairs = lines.select("user_id", "item_id", score=_numeric(lines, 4, path))
    _refuse_infinite(pairs, "score", path)
    _refuse_twice(pairs, path)
    return pairs


def score_run(qrels: pl.DataFrame, run: pl.DataFrame, ks: Sequence[int]) -> Scored:
    """Accuracy of a system's lists.

    A relevant item that a list lacks counts as missed, and a user without a list gets 0 everywhere: no system gains by
    leaving out the hard cases. Tied scores earn their expectation; the order of the file means nothing. Where the
    values in the qrels differ, ``rated_ndcg`` and ``err`` are added, unless they are no grades.

    Raises:
        UserError: no user of the run is in the qrels.
    """
    lowest, highest = float(qrels["value"].min()), float(qrels["value"].max())  # type: ignore[arg-type]
    several, are_grades = lowest < highest, lowest > 0 and highest <= HIGHEST_GRADE
    max_grade = highest if several and are_grades else None
    users = qrels.select("user_id").unique().sort("user_id").with_row_index("user")
    listed = run.join(users, on="user_id")
    if listed.is_empty():
        raise UserError(
            f"run and qrels have no user in common: one has {run['user_id'][0]!r}, the other {qrels['user_id'][0]!r}; "
            "write the ids alike"
        )
    listed = listed.sort("user", "item_id").with_columns(
        level=pl.col("score").rank("dense").over("user"),  # exact in float32, whatever the scores were
        place=pl.int_range(pl.len()).over("user"),
    )
    relevant = (
        qrels.join(users, on="user_id")
        .join(listed.select("user", "item_id", "place"), on=["user", "item_id"], how="left")
        .sort("user", "item_id")
        .with_columns(pl.col("place").fill_null(-1))
    )
    width = int(listed["place"].max() or 0) + 1  # type: ignore[arg-type]
    size, values = max(1, BATCH // width), []
    for start in range(0, len(users), size):
        rows = min(size, len(users) - start)
        own, wanted = (_of_users(part, start, start + rows) for part in (listed, relevant))
        scores = torch.full((rows, width), -torch.inf)
        scores[_index(own, "user") - start, _index(own, "place")] = torch.tensor(own["level"].to_numpy()).float()
        positives = _index(wanted, "user") - start, _index(wanted, "place")
        grades = torch.tensor(wanted["value"].to_numpy())
        values.append(ranking_values(scores, *positives, ks, max_grade=max_grade, grades=grades))
    table = torch.cat(values)
    named = {name: table[:, i] for i, name in enumerate(ranking_names(ks, max_grade))}
    notes = _notes(run, users, listed, max(ks))
    if (relevant["place"] < 0).all():
        notes.append(f"no list has an item that is relevant; the first relevant one is {relevant['item_id'][0]!r}")
    if several and not are_grades:
        notes.append(f"values from {lowest:g} to {highest:g} are no grades: rated_ndcg and err are left out")
    per_user = with_values(users.with_columns(pl.col("user").cast(pl.Int64)), torch.arange(len(users)), named)
    return Scored({name: float(value.mean()) for name, value in named.items()}, per_user.drop("user"), notes)


def _of_users(table: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
    """Rows of the users from ``start`` to before ``end``, of a table sorted by user."""
    first, last = table["user"].search_sorted(np.array([start, end]))
    return table[first:last]


def _notes(run: pl.DataFrame, users: pl.DataFrame, listed: pl.DataFrame, k: int) -> list[str]:
    notes = []
    lengths = listed.group_by("user").len()["len"]
    missing, short = len(users) - len(lengths), int((lengths < k).sum())
    strange = run.join(users, on="user_id", how="anti")["user_id"].n_unique()
    top = listed.filter(pl.col("score").rank("min", descending=True).over("user") <= k)
    tied = top.filter(pl.struct("user", "score").is_duplicated())["user"].n_unique()
    ends = listed.group_by("user").agg(
        lowest=(pl.col("score") == pl.col("score").min()).sum(), above=(pl.col("score") > pl.col("score").min()).sum()
    )
    cut = len(ends.filter(pl.col("lowest") > 1, pl.col("above") < k, pl.col("lowest") + pl.col("above") >= k))
    if missing:
        notes.append(f"users of the qrels without a list: {missing} of {len(users)}; they count 0")
    if strange:
        notes.append(f"users of the run with nothing relevant in the qrels: {strange}; they are left out")
    if short:
        notes.append(f"lists shorter than {k}: {short}")
    if tied:
        notes.append(f"lists with ties within rank {k}: {tied}; their values are expectations over random tie-breaks")
    if cut:
        notes.append(
            f"lists that end in a tie which begins within rank {k}: {cut}; if they were cut there, their values are "
            "not those of the whole ranking"
        )
    return notes


def read_rows(path: str, columns: Mapping[str, str]) -> pl.DataFrame:
    """Labelled rows: ``user_id`` (text), ``label`` and ``score``, in the order of the file.

    Raises:
        UserError: the file cannot be read, a label is not 0 or 1, or a score is no finite number.
    """
    table = _table(path, columns, ("user", "label", "score"))
    rows = pl.DataFrame({
        "user_id": table[columns["user"]].cast(pl.String),
        "label": number(table, columns["label"], path),
        "score": number(table, columns["score"], path),
    })  # fmt: skip
    _refuse_infinite(rows, "score", path)
    wrong = rows["label"].is_in([0.0, 1.0]).not_().arg_true()
    if len(wrong):
        label = rows["label"][int(wrong[0])]
        raise UserError(f"{path}: data row {int(wrong[0]) + 1} has label {label:g}: it must be 0 or 1")
    if rows["label"].n_unique() < 2:
        raise UserError(f"{path}: all labels are {rows['label'][0]:g}: pointwise metrics need both classes")
    return rows


def score_rows(rows: pl.DataFrame, threshold: float | None) -> Scored:
    """Pointwise metrics of a system's scores.

    Log loss and calibration need scores that are probabilities; precision, recall, F1 and accuracy also a threshold,
    which must not have been chosen on these rows.

    Raises:
        UserError: the threshold is no probability.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"threshold={threshold:g}: it must be a probability, from 0 to 1")
    users = rows["user_id"].unique().sort()
    index = torch.tensor(rows["user_id"].replace_strict(users, np.arange(len(users)), return_dtype=pl.Int64).to_numpy())
    labels, scores = torch.tensor(rows["label"].to_numpy()), torch.tensor(rows["score"].to_numpy())
    probabilities = bool(scores.min() >= 0) and bool(scores.max() <= 1)
    found = row_metrics(index, labels, scores, probabilities=probabilities, threshold=threshold)
    left_out, notes = set(), []
    if threshold is None or not probabilities:
        left_out |= {"precision", "recall", "f1", "accuracy"}
    if not probabilities:
        left_out |= {"logloss", "calibration"}
        notes.append("scores are no probabilities: log loss, calibration and threshold metrics are left out")
    dropped = int(found.shares["uauc"].isnan().sum())
    if dropped:
        notes.append(f"{dropped} of {len(users)} users have rows of one class only: uauc leaves them out")
    kept = {name: value for name, value in found.shares.items() if name not in left_out}
    table = with_values(pl.DataFrame({"user": np.arange(len(users)), "user_id": users}), found.users, kept)
    return Scored({k: v for k, v in found.values.items() if k not in left_out}, table.drop("user"), notes)


def _index(table: pl.DataFrame, name: str) -> torch.Tensor:
    return torch.tensor(table[name].to_numpy().astype(np.int64))


def _table(path: str, columns: Mapping[str, str], roles: Sequence[str]) -> pl.DataFrame:
    table = read_table(path, [columns["user"], columns["item"]])
    if table.is_empty():
        raise UserError(f"{path} has no rows: give a file with at least one")
    for role in roles:
        column(table, columns[role], f"columns.{role}", path)
        missing = table[columns[role]].is_null().arg_true()
        if len(missing):
            raise UserError(f"{path}: data row {int(missing[0]) + 1} has no {columns[role]}; {len(missing)} such rows")
    return table


def _pairs(table: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    names = {"user_id": columns["user"], "item_id": columns["item"]}
    return table.select(pl.col(name).cast(pl.String).alias(role) for role, name in names.items())


def _trec(path: str, names: Sequence[str]) -> pl.DataFrame:
    """Fields of each line that is not empty, as ``field_0`` and so on, with ``user_id`` and ``item_id``."""
    file = existing_file(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8; tables must end in {', '.join(ENDINGS)}") from error
    raw = pl.DataFrame({"line": lines}, schema={"line": pl.String}).with_row_index("number", offset=1)
    raw = raw.with_columns(fields=pl.col("line").str.strip_chars().str.replace_all(r"\s+", " ").str.split(" "))
    raw = raw.filter(pl.col("line").str.strip_chars() != "")
    if raw.is_empty():
        raise UserError(f"{path} is empty: lines are {' '.join(names)}")
    wrong = raw.filter(pl.col("fields").list.len() != len(names))
    if not wrong.is_empty():
        first = wrong.row(0, named=True)
        raise UserError(
            f"{path}: line {first['number']} has {len(first['fields'])} fields, not {len(names)} ({' '.join(names)}); "
            f"{len(wrong)} such lines"
        )
    fields = [pl.col("fields").list.get(i).alias(f"field_{i}") for i in range(len(names))]
    return raw.select("number", *fields).with_columns(user_id="field_0", item_id="field_2")


def _numeric(lines: pl.DataFrame, field: int, path: str) -> pl.Series:
    values = lines[f"field_{field}"].cast(pl.Float64, strict=False)
    bad = values.is_null().arg_true()
    if len(bad):
        first = int(bad[0])
        raise UserError(
            f"{path}: line {lines['number'][first]} has {lines[f'field_{field}'][first]!r} where a number must stand; "
            f"{len(bad)} such lines"
        )
    return values


def _refuse_twice(pairs: pl.DataFrame, path: str) -> None:
    twice = pairs.filter(pl.struct("user_id", "item_id").is_duplicated())
    if not twice.is_empty():
        user, item = twice.row(0)[:2]
        raise UserError(
            f"{path} lists user {user} and item {item} more than once; {len(twice)} such rows: keep one of each"
        )


def _refuse_infinite(rows: pl.DataFrame, name: str, path: str) -> None:
    bad = rows[name].is_finite().not_().arg_true()
    if len(bad):
        row = rows.row(int(bad[0]), named=True)
        raise UserError(
            f"{path}: the {name} of row {int(bad[0]) + 1} (user {row['user_id']}) is {row[name]}; "
            f"{len(bad)} such rows: each must be finite"
        )
