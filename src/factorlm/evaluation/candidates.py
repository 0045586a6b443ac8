"""Which candidates of a part each question ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from factorlm.data.reading import checksum, column, read_table
from factorlm.errors import UserError

Indices = npt.NDArray[np.int64]
Pairs = tuple[Indices, Indices]


class Questions(NamedTuple):
    """The questions of a part. Pairs are (question, item index).

    Attributes:
        users: [Q] user index of each.
        known: gives every item that the user of a question ever had; positives are among them.
        positives: what is asked for.
        candidates: [N] item indices of the part.
        user_ids, item_ids: ids by index.
    """

    users: Indices
    known: Callable[[], Pairs]
    positives: Pairs
    candidates: Indices
    user_ids: pl.Series
    item_ids: pl.Series


class Candidates(Protocol):
    """A rule."""

    @property
    def suffix(self) -> str:
        """What it adds to the names of metrics: nothing for full rankings."""
        ...

    def identity(self) -> str:
        """What determines the candidates, for the protocol."""
        ...

    def choose(self, questions: Questions) -> Pairs | None:
        """The candidates of each question as pairs; None: all of the part but those excluded."""
        ...


@dataclass(frozen=True)
class Full:
    """Every candidate of the part, but items the user had before."""

    suffix = ""

    def identity(self) -> str:
        """There is nothing to choose."""
        return "all"

    def choose(self, questions: Questions) -> None:
        """Choose all."""
        return


@dataclass(frozen=True)
class Uniform:
    """The positives and some candidates drawn among those that are no positive of the user, as in older papers.

    Sampled metrics are no estimates of full ones and can order models differently (W. Krichene and S. Rendle, On
    Sampled Metrics for Item Recommendation, KDD 2020), so their names say what they are: ``ndcg@10/uni100``.

    Args:
        num: candidates drawn for each question, without repeats.
        seed: of the draw; it belongs to the protocol, not to the run.
    """

    num: int
    seed: int

    def __post_init__(self) -> None:
        if self.num < 1:
            raise UserError(f"candidates.num={self.num}: it must be 1 or more")

    @property
    def suffix(self) -> str:
        return f"/uni{self.num}"

    def identity(self) -> str:
        """Number and seed."""
        return f"{self.num} uniform, seed {self.seed}"

    def choose(self, questions: Questions) -> Pairs:
        """Draw for each question with a generator of its own."""
        queries, known = questions.known()
        ends = np.cumsum(np.bincount(queries, minlength=len(questions.users)))
        own = np.split(known[queries.argsort(kind="stable")], ends[:-1])
        size = len(questions.candidates)
        drawn = []
        for query, items in enumerate(own):
            generator = np.random.default_rng([self.seed, query])
            places = generator.choice(size, size=min(size, self.num + len(items)), replace=False)
            fresh = questions.candidates[places]
            drawn.append(fresh[~np.isin(fresh, items)][: self.num])
        rows = np.repeat(np.arange(len(own)), [len(items) for items in drawn])
        return np.concatenate([questions.positives[0], rows]), np.concatenate([questions.positives[1], *drawn])


@dataclass(frozen=True)
class Listed:
    """Exactly the candidates a file lists for each user; a positive that it does not list counts as missed.

    Args:
        path: ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl``, a row for each user and candidate.
        columns: names in the file of ``user`` and ``item``.
    """

    path: str
    columns: Mapping[str, str]
    suffix = "/listed"

    def identity(self) -> str:
        """The checksum of the file, and which of its columns are read."""
        return f"listed, {checksum(self.path)[:12]} {self.columns['user']} {self.columns['item']}"

    def choose(self, questions: Questions) -> Pairs:
        """Look the users and items up.

        Raises:
            UserError: the file or a column is missing, an item is unknown, a pair is listed twice or a user has none.
        """
        user, item = self.columns["user"], self.columns["item"]
        table = read_table(self.path, [user, item])
        for role, name in (("user", user), ("item", item)):
            column(table, name, f"candidates.columns.{role}", self.path)
        ids = pl.DataFrame({
            "user": table[user].cast(questions.user_ids.dtype, strict=False),
            "item": table[item].cast(questions.item_ids.dtype, strict=False),
        })  # fmt: skip
        items = pl.DataFrame({"item": questions.item_ids, "index": np.arange(len(questions.item_ids))})
        self._refuse(table, ~ids["item"].is_in(items["item"].implode()), "names an item that is not in the dataset")
        self._refuse(table, ids["user"].is_not_null() & ids.is_duplicated(), "is listed twice")
        asked = pl.DataFrame({
            "user": questions.user_ids.gather(pl.Series(questions.users)),
            "query": np.arange(len(questions.users)),
        })  # fmt: skip
        alone = asked.join(ids, on="user", how="anti")
        if not alone.is_empty():
            raise UserError(
                f"candidates.path={self.path} lists nothing for user {alone['user'][0]}, who is evaluated; "
                f"{alone['user'].n_unique()} such users: list candidates for each"
            )
        pairs = asked.join(ids, on="user").join(items, on="item").sort("query", "index")
        return pairs["query"].to_numpy(), pairs["index"].to_numpy()

    def _refuse(self, table: pl.DataFrame, bad: pl.Series, what: str) -> None:
        rows = bad.fill_null(True).arg_true()
        if len(rows):
            values = ", ".join(f"{name}={table[name][int(rows[0])]}" for name in self.columns.values())
            raise UserError(
                f"candidates.path={self.path}: data row {int(rows[0]) + 1} ({values}) {what}; {len(rows)} such rows: "
                "remove them"
            )
