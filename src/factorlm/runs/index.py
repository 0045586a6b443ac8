"""What is in the store, fast: a cache of records and configs in one SQLite file, which any call can build anew.

The run folders are the truth. A run's row holds while its ``record.json`` and ``config.yaml`` keep their inode, size
and time; the rows of others are read again. Without the file, with a broken one, or where none can be written, the
answer is the same and takes longer.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import yaml

from factorlm.runs.record import CONFIG, FILE, read_record
from factorlm.runs.store import run_folders, status

INDEX = ".index.sqlite"
VERSION = 1  # of the table; a file of another version is emptied
TABLE = "CREATE TABLE runs (folder BLOB PRIMARY KEY, stamp TEXT, row TEXT, config TEXT, metrics TEXT)"
FIELDS = ("status", "study", "arm", "seed", "key", "code", "fingerprint", "started", "ended", "error")
BATCH = 200  # runs read between two commits, so that another process never waits for long
Found = tuple[bytes, str]  # folder below the root, and its stamp
Track = Callable[[Sequence[Found]], Iterable[Found]]
UNUSABLE = (  # the file may be fine, but not for us and now
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM,
)  # fmt: skip


def read_runs(
    root: Path, keys: Sequence[str] = (), parts: Sequence[str] = (), track: Track = iter
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Every run below ``root``, oldest first, and the folders whose record cannot be read.

    Args:
        root: of the store, or one run folder.
        keys: of config (``model.num_factors``) or metrics (``valid/ndcg@5``; ``ndcg@5`` is that of test, and ``ndcg``
            is ``ndcg@10`` of test), whose values a run gets under ``values`` if it has them.
        parts: ``config`` or ``metrics``, which a run gets whole.
        track: shows progress over what must be read from the folders.
    """
    found = [(os.fsencode(folder.relative_to(root)), _stamp(folder)) for folder in run_folders(root)]
    if not found:
        return [], []
    places = [":memory:"] if (root / FILE).exists() else [str(root / INDEX), str(root / INDEX), ":memory:"]
    for place in places:
        try:
            with closing(sqlite3.connect(place, timeout=20)) as database:
                _update(database, root, found, track)
                return _read(database, root, keys, parts)
        except (sqlite3.Error, ValueError) as error:
            if place == places[-1]:
                raise
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in UNUSABLE:
                _forget(root / INDEX)
    raise AssertionError("a database in memory opens")


def _forget(file: Path) -> None:
    for broken in (file, file.with_name(f"{file.name}-journal")):
        with suppress(OSError):
            broken.unlink()


def _stamp(folder: Path) -> str:
    parts = []
    for name in (FILE, CONFIG):
        try:
            found = os.stat(folder / name)
            parts.append(f"{found.st_ino}.{found.st_size}.{found.st_mtime_ns}")
        except OSError:
            parts.append("")
    return " ".join(parts)


def _update(database: sqlite3.Connection, root: Path, found: list[Found], track: Track) -> None:
    """Read what changed, forget what is gone."""
    if database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        with database:
            database.execute("DROP TABLE IF EXISTS runs")
            database.execute(TABLE)
            database.execute(f"PRAGMA user_version = {VERSION}")
    known = dict(database.execute("SELECT folder, stamp FROM runs"))
    changed = [(folder, stamp) for folder, stamp in found if known.get(folder) != stamp]
    rows: list[tuple[Any, ...]] = []
    for done, (folder, stamp) in enumerate(track(changed), 1):
        rows.append((folder, stamp, *_row(root / os.fsdecode(folder))))
        if len(rows) == BATCH or done == len(changed):
            with database:
                database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)", rows)
            rows.clear()
    gone = known.keys() - {folder for folder, _ in found}
    if gone:
        with database:
            database.executemany("DELETE FROM runs WHERE folder = ?", [(folder,) for folder in gone])


def _row(folder: Path) -> tuple[str | None, str, str]:
    """Of a run: a few fields as JSON (None without a readable record), its config and its metrics."""
    record = read_record(folder)
    if record is None:
        return None, "{}", "{}"
    metrics = _mapping(record, "metrics")
    metric = str(_mapping(record, "protocol").get("selection", "")).removeprefix("max valid/")
    fields = {name: record.get(name) for name in FIELDS} | {
        "seconds": _mapping(record, "seconds").get("total"),
        "metric": metric or None,
        "valid": metrics.get(f"valid/{metric}"),
        "test": metrics.get(f"test/{metric}"),
    }
    plain = {name: value if isinstance(value, (str, int, float)) else None for name, value in fields.items()}
    return _json(plain), _json(read_config(folder)), _json(metrics)


def _mapping(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a run; empty where none can be read."""
    try:
        content = yaml.load((folder / CONFIG).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _json(value: Any) -> str:
    try:
        return json.dumps(_finite(value), default=str)
    except RecursionError:  # nobody's config
        return "{}"


def _finite(value: Any) -> Any:
    """Plain data without what JSON has no word for."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(
    database: sqlite3.Connection, root: Path, keys: Sequence[str], parts: Sequence[str]
) -> tuple[list[dict[str, Any]], list[Path]]:
    columns = [f"{column} -> ?" for key in keys for column, _ in _places(key)] + list(parts)
    arguments = [path for key in keys for _, path in _places(key)]
    selected = database.execute(f"SELECT {', '.join(['folder', 'row', *columns])} FROM runs", arguments)  # noqa: S608
    runs, unreadable = [], []
    for name, row, *found in selected:
        folder = root / os.fsdecode(name)
        if row is None:
            unreadable.append(folder)
            continue
        values = iter(found)
        run = {"folder": str(folder)} | json.loads(row)
        run["values"] = dict(_values(keys, values))
        run |= {part: json.loads(next(values)) for part in parts}
        run["status"] = status(folder, run)
        runs.append(run)
    return sorted(runs, key=lambda run: (str(run["started"]), run["folder"])), sorted(unreadable)


def _places(key: str) -> list[tuple[str, str]]:
    """Where the value of a key may be: columns and JSON paths, the first that has one counts."""
    config = "".join(f'."{part}"' for part in key.split("."))
    return [("config", f"${config}"), *(("metrics", f'$."{name}"') for name in metric_names(key))]


def metric_names(key: str) -> list[str]:
    """The metrics that a key may be short for, the nearest first."""
    return [key, f"test/{key}", f"test/{key}@10"]


def _values(keys: Sequence[str], found: Iterator[str | None]) -> Iterator[tuple[str, Any]]:
    for key in keys:
        texts = [next(found) for _ in _places(key)]
        text = next((text for text in texts if text is not None), None)
        if text is not None:
            yield key, json.loads(text)
