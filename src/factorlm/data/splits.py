"""Splits: which interactions train, select and test, and who is ranked against whom.

Every split is a small class whose fields are its whole rule. Calling it labels each interaction; `make_split` then
applies what all splits share: users without training interactions are dropped from valid and test, the cold-item rule
decides what happens to items without any, and the report counts what was lost and how much the future leaks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from factorlm.errors import UserError

TRAIN, VALID, TEST = 0, 1, 2
PARTS = ("train", "valid", "test")
Labels = npt.NDArray[np.int8]
Indices = npt.NDArray[np.int64]


class SplitRule(Protocol):
    """A rule that assigns each interaction to a part."""

    def __call__(self, interactions: pl.DataFrame) -> Labels:
        """Label each row of ``interactions`` (columns of `Tables`, in source order) with TRAIN, VALID or TEST."""
        ...

    @property
    def candidates(self) -> Literal["train", "all", "part"]:
        """Which items are ranked: seen in training, the whole catalogue, or those of the evaluated part."""
        ...


@dataclass(frozen=True)
class _ColdAware:
    """What the splits over interactions share: ``cold`` says what happens to items without training interactions."""

    cold: Literal["drop", "keep"]

    def __post_init__(self) -> None:
        if self.cold not in ("drop", "keep"):
            raise UserError(f"split.cold={self.cold!r}: it must be drop or keep")
        _require_shares(getattr(self, "valid", 0.1), getattr(self, "test", 0.1))

    @property
    def candidates(self) -> Literal["train", "all"]:
        return "train" if self.cold == "drop" else "all"


@dataclass(frozen=True)
class UserTime(_ColdAware):
    """Each user's earliest interactions train, the next select, the latest test. Leaks the future across users.

    Args:
        valid, test: share of each user's interactions; the counts are rounded so that training gets the fewest.
        cold: ``drop`` valid and test interactions with items unseen in training, or ``keep`` and rank all items.
    """

    valid: float
    test: float

    def __call__(self, interactions: pl.DataFrame) -> Labels:
        position, size = _positions(interactions)
        first_valid = np.floor(size * round(1 - self.valid - self.test, 9))
        first_test = np.floor(size * round(1 - self.test, 9))
        labels: Labels = ((position >= first_valid) + (position >= first_test).astype(np.int8)).astype(np.int8)
        return labels


@dataclass(frozen=True)
class GlobalTime(_ColdAware):
    """The earliest interactions of all users train, the next select, the latest test: nothing leaks.

    Args:
        valid, test: share of all interactions.
        cold: ``drop`` valid and test interactions with items unseen in training, or ``keep`` and rank all items.
    """

    valid: float
    test: float

    def __call__(self, interactions: pl.DataFrame) -> Labels:
        size = len(interactions)
        order = interactions.with_row_index("row").sort("timestamp", "row")["row"].to_numpy()
        labels = np.zeros(size, np.int8)
        labels[order[int(size * round(1 - self.valid - self.test, 9)) :]] = VALID
        labels[order[int(size * round(1 - self.test, 9)) :]] = TEST
        return labels


@dataclass(frozen=True)
class LeaveOneOut(_ColdAware):
    """Each user's last interaction tests and the one before selects; users with fewer than three only train.

    Args:
        cold: ``drop`` valid and test interactions with items unseen in training, or ``keep`` and rank all items.
    """

    def __call__(self, interactions: pl.DataFrame) -> Labels:
        position, size = _positions(interactions)
        enough = size >= 3
        labels = np.zeros(len(interactions), np.int8)
        labels[enough & (position == size - 2)] = VALID
        labels[enough & (position == size - 1)] = TEST
        return labels


@dataclass(frozen=True)
class Random(_ColdAware):
    """Interactions are assigned at random, blind to time.

    Args:
        valid, test: share of all interactions.
        seed: of the assignment; it belongs to the protocol, not to the run.
        cold: ``drop`` valid and test interactions with items unseen in training, or ``keep`` and rank all items.
    """

    valid: float
    test: float
    seed: int

    def __call__(self, interactions: pl.DataFrame) -> Labels:
        return _assign(len(interactions), self.valid, self.test, self.seed)


@dataclass(frozen=True)
class ColdItem:
    """Items are assigned at random with all their interactions; each part ranks its own items, all of them unseen.

    Args:
        valid, test: share of the items that have interactions.
        seed: of the assignment; it belongs to the protocol, not to the run.
    """

    valid: float
    test: float
    seed: int

    def __post_init__(self) -> None:
        _require_shares(self.valid, self.test)

    @property
    def candidates(self) -> Literal["part"]:
        return "part"

    def __call__(self, interactions: pl.DataFrame) -> Labels:
        items = interactions["item_id"].unique().sort()
        labels = pl.DataFrame({"item_id": items, "part": _assign(len(items), self.valid, self.test, self.seed)})
        part: Labels = interactions.join(labels, on="item_id", how="left", maintain_order="left")["part"].to_numpy()
        return part


def _require_shares(valid: float, test: float) -> None:
    for name, share in (("valid", valid), ("test", test)):
        if not 0 < share < 0.5:
            raise UserError(f"split.{name}={share}: it must lie between 0 and 0.5")


def _assign(size: int, valid: float, test: float, seed: int) -> Labels:
    order = np.random.default_rng(seed).permutation(size)
    labels = np.zeros(size, np.int8)
    num_valid, num_test = round(size * valid), round(size * test)
    labels[order[:num_test]] = TEST
    labels[order[num_test : num_test + num_valid]] = VALID
    return labels


def _positions(interactions: pl.DataFrame) -> tuple[Indices, Indices]:
    """Position of each interaction in its user's history, by time then row, and the history's length."""
    ordered = interactions.with_row_index("row").sort("user_id", "timestamp", "row")
    ordered = ordered.select(
        "row", position=pl.int_range(pl.len()).over("user_id"), size=pl.len().over("user_id").cast(pl.Int64)
    ).sort("row")
    return ordered["position"].to_numpy(), ordered["size"].to_numpy()


@dataclass(frozen=True)
class Split:
    """Interactions of each part as index pairs, who is ranked in each, and what the rule cost.

    Attributes:
        users, items: ``{part: [n] indices}`` into the users and items tables.
        candidates: ``{part: [m] sorted item indices}`` for valid and test.
        report: counts, tied times, leakage and what was dropped.
    """

    users: dict[str, Indices]
    items: dict[str, Indices]
    candidates: dict[str, Indices]
    report: dict[str, object]


def make_split(
    rule: SplitRule, interactions: pl.DataFrame, user_index: Indices, item_index: Indices, num_items: int
) -> Split:
    """Apply a rule and everything splits share.

    Args:
        rule: the split.
        interactions: the canonical interactions, n rows.
        user_index, item_index: [n] index of each interaction's user and item.
        num_items: items in the catalogue.

    Raises:
        UserError: a part is empty.
    """
    labels = rule(interactions)
    train = labels == TRAIN
    warm_user = np.isin(user_index, user_index[train])
    warm_item = np.isin(item_index, item_index[train])
    keep = train | (warm_user & (warm_item if rule.candidates == "train" else True))
    users = {part: user_index[keep & (labels == code)] for code, part in enumerate(PARTS)}
    items = {part: item_index[keep & (labels == code)] for code, part in enumerate(PARTS)}
    for part in PARTS:
        if not len(users[part]):
            raise UserError(f"split {rule} leaves no {part} interaction out of {len(interactions)}: take another split")
    candidates = {}
    for part in PARTS[1:]:
        seen = {"train": items["train"], "all": np.arange(num_items), "part": items[part]}[rule.candidates]
        candidates[part] = np.unique(seen).astype(np.int64)
    return Split(users, items, candidates, _report(rule, interactions, labels, keep, users, items))


def _report(
    rule: SplitRule,
    interactions: pl.DataFrame,
    labels: Labels,
    keep: npt.NDArray[np.bool_],
    users: dict[str, Indices],
    items: dict[str, Indices],
) -> dict[str, object]:
    time = interactions["timestamp"].to_numpy()
    tied = interactions.select(pl.struct("user_id", "timestamp").is_duplicated().mean()).item()
    test = keep & (labels == TEST)
    return {
        "rule": {"name": type(rule).__name__, **asdict(rule)},  # type: ignore[call-overload]
        "rows": {part: len(users[part]) for part in PARTS},
        "users": {part: len(np.unique(users[part])) for part in PARTS},
        "items": {part: len(np.unique(items[part])) for part in PARTS},
        "dropped": {part: int((~keep & (labels == code)).sum()) for code, part in enumerate(PARTS)},
        "tied_timestamps": round(float(tied), 4),
        # share of training interactions later than the first test interaction
        "leakage": round(float((time[labels == TRAIN] > time[test].min()).mean()), 4),
    }
