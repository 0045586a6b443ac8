"""Take over a finished run from another store: checked first, then copied as a whole."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from factorlm.errors import UserError
from factorlm.runs.identity import require_own_fingerprint
from factorlm.runs.record import CONFIG, FILE, SCHEMA, read_record, write_json
from factorlm.runs.store import HISTORY

TABLES = ("per_user.parquet", "topk.parquet", "rows.parquet")
NEEDED = {"study": str, "arm": str, "seed": int, "key": str, "metrics": dict, "protocol": dict, "fingerprint": str}


def check_run(folder: Path) -> dict[str, Any]:
    """The record of somebody else's finished run; nothing in its folder is executed or unpickled.

    Raises:
        UserError: the record, the config or a file is not what a run has.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} is a link that leaves the run folder: replace it by the file itself")
    record = read_record(folder)
    if record is None or record.get("schema") != SCHEMA:
        raise UserError(f"{folder}: its {FILE} is not a record of schema {SCHEMA}; this run cannot be imported")
    if record.get("status") != "done":
        raise UserError(f"{folder}: its status is {record.get('status')}; only finished runs can be imported")
    for name, kind in NEEDED.items():
        if not isinstance(record.get(name), kind):
            raise UserError(f"{folder}: {name} of its {FILE} is {record.get(name)!r}, which is no {kind.__name__}")
    if not all(re.fullmatch(r"[\w.@+,=-]+", part) and part.strip(".") for part in record["study"].split("/")):
        raise UserError(f"{folder}: study={record['study']!r} of its {FILE} is no name of a folder")
    require_own_fingerprint(record, str(folder))
    _check_files(folder)
    return record


def _check_files(folder: Path) -> None:
    import polars as pl
    from safetensors import SafetensorError, safe_open

    try:
        text = (folder / CONFIG).read_text()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("it refers to itself")  # and might grow without bound
        if not isinstance(yaml.safe_load(text), dict):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{folder / CONFIG} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not (folder / TABLES[0]).is_file():
        raise UserError(f"{folder / TABLES[0]} is missing: this run could not be compared")
    for name in TABLES:
        try:
            if (folder / name).exists():
                pl.read_parquet_schema(folder / name)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise UserError(f"{folder / name} is no parquet file: {error}") from error
    for path in (folder / "checkpoint").rglob("*"):
        if path.suffix != ".safetensors":
            raise UserError(f"{path} is not safetensors, which alone is safe to load: remove it")
        try:
            with safe_open(path, "numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is no safetensors file: {error}") from error


def import_run(folder: Path, record: dict[str, Any], target: Path) -> None:
    """Copy a checked run; its folder appears when it is complete. The mirror of a tracker stays behind.

    Raises:
        UserError: the target exists.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    partial.mkdir(parents=True)
    try:
        for name in (CONFIG, HISTORY, *TABLES):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)
        if (folder / "checkpoint").is_dir():
            shutil.copytree(folder / "checkpoint", partial / "checkpoint", copy_function=shutil.copyfile)
        write_json(partial / FILE, record | {"imported": True})
        partial.rename(target)
    except OSError as error:
        if target.exists():
            raise UserError(f"{target} exists: remove it first, or import into another run.root") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
