"""Split rules: which interactions train, select and test. A rule is a small class whose fields are all it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from factorlm.data.reading import checksum, column, read_table, seconds
from factorlm.data.sources.examples import read_examples
from factorlm.errors import UserError

NO_PART, TRAIN, VALID, TEST = -1, 0, 1, 2
PARTS = ("train", "valid", "test")
Parts = npt.NDArray[np.int8]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Cold = Literal["drop", "keep"]
Target = Literal["all", "last", "first", "successive"]


class SplitRule(Protocol):
    """A rule that assigns each interaction to a part, and what `make_split` does with the parts."""

    @property
    def min_user(self) -> int:
        """Positive interactions a user needs, counted with `min_item` until both hold; 0 is off."""
        ...

    @property
    def min_item(self) -> int:
        """Positive interactions an item needs."""
        ...

    @property
    def cold_users(self) -> Cold:
        """Whether valid and test keep rows of users unseen in training."""
        ...

    @property
    def cold_items(self) -> Cold:
        """Whether valid and test keep rows of items unseen in training."""
        ...

    @property
    def target(self) -> Target:
        """Which of a user's rows of a part are asked for."""
        ...

    @property
    def candidates(self) -> Literal["train", "all", "part"]:
        """Which items are ranked: seen in training, the whole catalogue, or those of the evaluated part."""
        ...

    @property
    def ordered(self) -> tuple[str, ...]:
        """``user, timestamp`` or ``timestamp``: among rows equal in these the source decides; empty: time does not."""
        ...

    @property
    def asked_from(self) -> int | None:
        """Rows of valid and test with an earlier timestamp are what a user had before, and not asked; None: all are."""
        ...

    def identity(self) -> dict[str, Any]:
        """What determines the parts, as plain JSON data; cheap to compute."""
        ...

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        """Assign the rows of the core.

        Args:
            interactions: columns of `Tables`, n rows in source order.
            core: [n], rows that `min_user` and `min_item` leave, m of them.

        Returns:
            [m] parts: TRAIN, VALID, TEST or NO_PART.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """What all rules share."""

    min_user: int
    min_item: int
    ordered: ClassVar[tuple[str, ...]] = ()
    asked_from: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        allowed = {"cold_items": get_args(Cold), "cold_users": get_args(Cold), "target": get_args(Target)}
        for name, value in asdict(self).items():
            if name in allowed and value not in allowed[name]:
                raise UserError(f"split.{name}={value!r}: it must be one of {', '.join(allowed[name])}")
            if name in ("min_user", "min_item") and value < 0:
                raise UserError(f"split.{name}={value}: it must be 0 or more")
            if name in ("valid", "test") and not isinstance(value, str) and not 0 < value < 0.5:
                raise UserError(f"split.{name}={value}: it must lie between 0 and 0.5")

    def identity(self) -> dict[str, Any]:
        """The name of the rule and its fields."""
        return {"name": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class _InteractionRule(_Rule):
    """What splits over interactions share: the fate of users and items without training interactions."""

    cold_items: Cold
    cold_users: Cold

    @property
    def candidates(self) -> Literal["train", "all"]:
        return "train" if self.cold_items == "drop" else "all"


@dataclass(frozen=True, kw_only=True)
class _TimeRule(_InteractionRule):
    """What splits by time share: how large the parts are and what is asked."""

    valid: float
    test: float
    target: Target
    ordered: ClassVar[tuple[str, ...]] = ("user", "timestamp")


@dataclass(frozen=True, kw_only=True)
class UserTime(_TimeRule):
    """Each user's earliest interactions train, the next select, the latest test. Leaks the future across users.

    Args:
        valid, test: share of each user's interactions; the counts are rounded so that training gets the fewest.
        target: which of a user's interactions of a part are asked for: ``all`` together, only the ``last`` or
            ``first``, or ``successive``: each one in its own question (Gusak et al., Time to Split, RecSys 2025).
        min_user, min_item: positives a user and an item need (iterative k-core); 0 is off.
        cold_items: ``drop`` valid and test rows of items unseen in training, or ``keep`` and rank the whole catalogue.
        cold_users: ``drop`` or ``keep`` valid and test rows of users unseen in training.
    """

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        position, size = positions(interactions.filter(core))
        first_valid = np.floor(size * round(1 - self.valid - self.test, 9))
        first_test = np.floor(size * round(1 - self.test, 9))
        parts = np.zeros(len(size), np.int8)
        parts[position >= first_valid] = VALID
        parts[position >= first_test] = TEST
        return parts


@dataclass(frozen=True, kw_only=True)
class GlobalTime(_TimeRule):
    """The earliest interactions of all users train, the next select, the latest test: nothing leaks.

    Args:
        valid, test: share of all interactions.
        target: which of a user's interactions of a part are asked for; see `UserTime`.
        min_user, min_item, cold_items, cold_users: see `UserTime`.
    """

    ordered: ClassVar[tuple[str, ...]] = ("timestamp",)

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        rows = interactions.filter(core)
        order = rows.with_row_index("row").sort("timestamp", "row")["row"].to_numpy()
        parts = np.zeros(len(rows), np.int8)
        parts[order[int(len(rows) * round(1 - self.valid - self.test, 9)) :]] = VALID
        parts[order[int(len(rows) * round(1 - self.test, 9)) :]] = TEST
        return parts


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(_InteractionRule):
    """Each user's last interaction tests and the one before selects; users with fewer than three only train.

    Args:
        min_user, min_item, cold_items, cold_users: see `UserTime`.
    """

    target: ClassVar[Target] = "all"
    ordered: ClassVar[tuple[str, ...]] = ("user", "timestamp")

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        position, size = positions(interactions.filter(core))
        parts = np.zeros(len(size), np.int8)
        parts[(size >= 3) & (position == size - 2)] = VALID
        parts[(size >= 3) & (position == size - 1)] = TEST
        return parts


@dataclass(frozen=True, kw_only=True)
class Random(_InteractionRule):
    """Interactions are assigned at random, blind to time and to the order of the source.

    Args:
        valid, test: share of all interactions.
        seed: of the assignment; it belongs to the protocol, not to the run.
        min_user, min_item, cold_items, cold_users: see `UserTime`.
    """

    valid: float
    test: float
    seed: int
    target: ClassVar[Target] = "all"

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        keys = interactions.filter(core).select("user_id", "item_id", "timestamp")
        return _drawn(keys, self.valid, self.test, self.seed)


@dataclass(frozen=True, kw_only=True)
class ColdItem(_Rule):
    """Items are assigned at random with all their interactions; each part ranks its own items, all of them unseen.

    Args:
        valid, test: share of the items that have interactions.
        seed: of the assignment; it belongs to the protocol, not to the run.
        min_user, min_item: see `UserTime`.
    """

    valid: float
    test: float
    seed: int
    target: ClassVar[Target] = "all"
    cold_items: ClassVar[Cold] = "keep"
    cold_users: ClassVar[Cold] = "drop"
    candidates: ClassVar[Literal["part"]] = "part"

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        return _drawn(interactions.filter(core).select("item_id"), self.valid, self.test, self.seed)


@dataclass(frozen=True, kw_only=True)
class ColdUser(_Rule):
    """Users are assigned at random with all their interactions, so all evaluated users are unseen.

    Args:
        valid, test: share of the users that have interactions.
        seed: of the assignment; it belongs to the protocol, not to the run.
        min_user, min_item: see `UserTime`.
    """

    valid: float
    test: float
    seed: int
    target: ClassVar[Target] = "all"
    cold_items: ClassVar[Cold] = "drop"
    cold_users: ClassVar[Cold] = "keep"
    candidates: ClassVar[Literal["train"]] = "train"

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        return _drawn(interactions.filter(core).select("user_id"), self.valid, self.test, self.seed)


@dataclass(frozen=True, kw_only=True)
class ExampleUsers(_Rule):
    """Users of `factorlm.data.sources.examples` are assigned at random with all their rows.

    Rows of training users train, those that an example lists included. Each example of valid and test is a question of
    its own, and the listed films are what its user had before: readable with ``history="earlier"``, never asked.

    Args:
        valid, test: share of the users.
        seed: of the assignment; it belongs to the protocol, not to the run.
        apart: None, or a file of examples whose users test; then the users drawn for test belong to no part.
        min_user, min_item: see `UserTime`.

    Raises:
        UserError: the file kept apart is not of the format, or has every user.
    """

    valid: float
    test: float
    seed: int
    apart: str | None
    target: ClassVar[Target] = "successive"
    cold_items: ClassVar[Cold] = "keep"
    cold_users: ClassVar[Cold] = "keep"
    candidates: ClassVar[Literal["all"]] = "all"
    asked_from: ClassVar[int | None] = 0

    def identity(self) -> dict[str, Any]:
        """The checksum of the file instead of its path."""
        return super().identity() | {"apart": self.apart and checksum(self.apart)}

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        users = interactions.filter(core).select("user_id")
        if self.apart is None:
            return _drawn(users, self.valid, self.test, self.seed)
        apart = users["user_id"].is_in(read_examples(self.apart)["user_id"].unique().implode()).to_numpy()
        if apart.all():
            raise UserError(f"split.apart={self.apart} has every user of the dataset: name examples of other users")
        parts = np.full(len(users), TEST, np.int8)
        drawn = _drawn(users.filter(~pl.Series(apart)), self.valid, self.test, self.seed)
        parts[~apart] = np.where(drawn == TEST, NO_PART, drawn)
        return parts


@dataclass(frozen=True, kw_only=True)
class Fixed(_InteractionRule):
    """A published split: files that list the rows of each part.

    Args:
        train, valid, test: paths; ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl``. One may be None: it gets the rows
            that the others do not list. With three paths, rows listed nowhere belong to no part.
        columns: names in the files of ``user``, ``item`` and, where a pair repeats across parts, ``timestamp``.
        min_user, min_item, cold_items, cold_users: see `UserTime`.
    """

    train: str | None
    valid: str | None
    test: str | None
    columns: Mapping[str, str | None]
    target: ClassVar[Target] = "all"

    def __post_init__(self) -> None:
        if len(self._unlisted) > 1:
            keys = " and ".join(f"split.{part}" for part in self._unlisted)
            raise UserError(f"{keys} have no file: only one of them can be the rest of the rows")

    def identity(self) -> dict[str, Any]:
        """The checksums of the files instead of their paths."""
        sums = {part: path and checksum(path) for part, path in self._paths.items()}
        return _Rule.identity(self) | sums

    def __call__(self, interactions: pl.DataFrame, core: Mask) -> Parts:
        keys = ["user_id", "item_id"] + ["timestamp"] * bool(self.columns.get("timestamp"))
        listed = pl.concat(
            self._listed(path, keys, interactions.schema).with_columns(part=pl.lit(PARTS.index(part), pl.Int8))
            for part, path in self._paths.items()
            if path
        )
        listed = listed.unique(maintain_order=True)
        self._refuse(listed.filter(pl.struct(keys).is_duplicated()), "is also listed for another part: keep it in one")
        strange = listed.join(interactions, on=keys, how="anti", maintain_order="left")
        self._refuse(strange, "is not in the dataset: lower dataset.min_value, or remove it")
        rest = PARTS.index(self._unlisted[0]) if self._unlisted else NO_PART
        parts = interactions.join(listed, on=keys, how="left", maintain_order="left")["part"].fill_null(rest)
        return parts.to_numpy()[core]

    @property
    def _unlisted(self) -> list[str]:
        return [part for part, path in self._paths.items() if path is None]

    @property
    def _paths(self) -> dict[str, str | None]:
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def _listed(self, path: str, keys: list[str], schema: pl.Schema) -> pl.DataFrame:
        for role in ("user", "item"):
            if not self.columns.get(role):
                raise UserError(f"split.columns.{role} has no value: name the column of {path}")
        names = {role: str(name) for role, name in self.columns.items() if name}
        table = read_table(path, [names["user"], names["item"]])
        names = {role: column(table, name, f"split.columns.{role}", path) for role, name in names.items()}
        ids = {f"{role}_id": table[names[role]].cast(schema[f"{role}_id"], strict=False) for role in ("user", "item")}
        times = {"timestamp": seconds(table, names["timestamp"], path)} if "timestamp" in keys else {}
        return pl.DataFrame(ids | times)

    def _refuse(self, rows: pl.DataFrame, what: str) -> None:
        if not rows.is_empty():
            first = rows.row(0, named=True)
            part = PARTS[first.pop("part")]
            keys = ", ".join(f"{name}={value}" for name, value in first.items())
            count = rows.drop("part").n_unique()
            raise UserError(f"split.{part}={self._paths[part]}: {keys} {what}; {count} such rows in all")


def _drawn(keys: pl.DataFrame, valid: float, test: float, seed: int) -> Parts:
    """Assign the distinct rows of ``keys``, in sorted order, to parts at random; [n] part of each row."""
    distinct = keys.unique().sort(keys.columns)
    order = np.random.default_rng(seed).permutation(len(distinct))
    num_valid, num_test = round(len(order) * valid), round(len(order) * test)
    parts = np.zeros(len(order), np.int8)
    parts[order[:num_test]] = TEST
    parts[order[num_test : num_test + num_valid]] = VALID
    drawn = distinct.with_columns(part=pl.Series(parts))
    return keys.join(drawn, on=keys.columns, how="left", maintain_order="left")["part"].to_numpy()


def positions(interactions: pl.DataFrame) -> tuple[Indices, Indices]:
    """Position of each interaction in its user's history, by time then row, and the history's length: [n] each."""
    order = interactions.select(pl.arg_sort_by("timestamp", maintain_order=True)).to_series()
    by_time = interactions.select(pl.col("user_id").gather(order)).select(
        position=pl.int_range(pl.len()).over("user_id"), size=pl.len().over("user_id").cast(pl.Int64)
    )
    position, size = (np.empty(len(order), np.int64) for _ in range(2))
    position[order.to_numpy()], size[order.to_numpy()] = by_time["position"].to_numpy(), by_time["size"].to_numpy()
    return position, size
