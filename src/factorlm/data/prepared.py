"""The first stage: source and split become a folder that every later stage reads."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from filelock import FileLock

from factorlm.code import source_hash
from factorlm.data.fields import Side
from factorlm.data.rules import PARTS, Indices, SplitRule, positions
from factorlm.data.sources.base import Source
from factorlm.data.splits import Split, make_split
from factorlm.data.tables import Frames, Tables, fingerprint, frame


@dataclass(frozen=True)
class Prepared:
    """A dataset and its split, loaded from disk.

    Attributes:
        tables: memory-mapped users, items and interactions.
        split: rows of each part, questions, candidates and report.
        data_fingerprint: hash of the interactions.
        split_fingerprint: hash of the rule, the rows of each part, the questions and the candidates.
        tables_fingerprint: hash of the users and items tables.
    """

    tables: Tables
    split: Split
    data_fingerprint: str
    split_fingerprint: str
    tables_fingerprint: str

    @property
    def frames(self) -> dict[Side, pl.DataFrame]:
        """Users and items tables as polars frames, by side."""
        return {"user": frame(self.tables.users), "item": frame(self.tables.items)}

    @cached_property
    def positions(self) -> Indices:
        """Place of every interaction in the history of its user, by time: [n]."""
        return positions(frame(self.tables.interactions).select("user_id", "timestamp"))[0]

    @property
    def in_train(self) -> dict[Side, np.ndarray[Any, np.dtype[np.bool_]]]:
        """Which users and items occur in training: [U] and [I], by side."""
        sizes: dict[Side, int] = {"user": len(self.tables.users), "item": len(self.tables.items)}
        rows = {"user": self.split.users["train"], "item": self.split.items["train"]}
        return {side: np.bincount(rows[side], minlength=size) > 0 for side, size in sizes.items()}


def prepared_key(source: Source, rule: SplitRule) -> str:
    """What identifies the prepared folder of a source and a split; cheap to compute."""
    identity = [source_hash("data"), source.identity(), rule.identity()]
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


def prepare(source: Source, rule: SplitRule, cache_dir: Path) -> tuple[Path, dict[str, Any]]:
    """Make the prepared folder unless it exists; return it and its report.

    Raises:
        UserError: the data cannot be fetched, read or split.
    """
    folder = cache_dir / "prepared" / prepared_key(source, rule)
    if not (folder / "meta.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "meta.json").exists():
                _write(folder, source.load(cache_dir), rule)
    return folder, json.loads((folder / "meta.json").read_text())


def _write(folder: Path, frames: Frames, rule: SplitRule) -> None:
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    started = time.perf_counter()
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    index = {"user_id": frames.users["user_id"], "item_id": frames.items["item_id"]}
    user_index, item_index = (
        frames.interactions[key].replace_strict(ids, np.arange(len(ids)), return_dtype=pl.Int64).to_numpy()
        for key, ids in index.items()
    )
    split = make_split(rule, frames.interactions, user_index, item_index, len(frames.items))
    prints = {name: fingerprint(table) for name, table in vars(frames).items()}
    for name, table in vars(frames).items():
        Dataset(InMemoryTable(table.to_arrow()), fingerprint=prints[name]).save_to_disk(partial / name)
    for part in PARTS:
        frames.interactions[split.rows[part]].write_parquet(partial / f"{part}.parquet")
    np.savez(partial / "split.npz", **split.arrays())  # type: ignore[arg-type]
    meta = {
        "data_fingerprint": prints["interactions"],
        "split_fingerprint": _digest(rule, split),
        "tables_fingerprint": fingerprint(frames.users, frames.items),
        "split": split.report,
        "users": len(frames.users),
        "items": len(frames.items),
        "interactions": len(frames.interactions),
        "columns": {"users": frames.users.columns, "items": frames.items.columns},
        "seconds": round(time.perf_counter() - started, 2),
    }
    (partial / "meta.json").write_text(json.dumps(meta, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _digest(rule: SplitRule, split: Split) -> str:
    digest = hashlib.sha256(json.dumps(rule.identity(), sort_keys=True).encode())
    for name, array in sorted(split.arrays().items()):
        digest.update(name.encode() + array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()[:16]


def load_prepared(folder: Path) -> Prepared:
    """Open a prepared folder; tables stay on disk, memory-mapped."""
    meta = json.loads((folder / "meta.json").read_text())
    with np.load(folder / "split.npz") as arrays:
        split = Split.of(arrays, meta["split"])
    tables = Tables(*(_mapped(folder / name) for name in ("interactions", "users", "items")))
    return Prepared(tables, split, meta["data_fingerprint"], meta["split_fingerprint"], meta["tables_fingerprint"])


def _mapped(folder: Path) -> pa.Table:
    """A table that `datasets` saved; to import that library would be a sixth of the start of a run."""
    names = [file["filename"] for file in json.loads((folder / "state.json").read_text())["_data_files"]]
    return pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(folder / name))).read_all() for name in names])
