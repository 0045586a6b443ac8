"""A compared study as a zip for a paper's supplement: what a reader may check, and nothing of the data.

Left out are what was recommended or asked (lists of items, rows), weights, and columns by attributes of users and
items. Users have numbers instead of ids, the same in all tables. The numbers follow a key that is a hash of what is
left out, so that the zip has the same bytes whenever it is made, and ids cannot be guessed without the lists.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from factorlm.comparison.columns import split_name
from factorlm.errors import UserError
from factorlm.runs.record import CONFIG, FILE, read_record

LEFT_OUT = {CONFIG: ("run", "cache", "tracking"), FILE: ("command", "init_from")}
HIDDEN = ("topk.parquet", "rows.parquet", "checkpoint/model.safetensors")  # they make the key
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold
ABOUT = """# {study}

Supplement of the study *{question}*, made by FactorLM.

* `README.md`, `study.yaml`: the question, and the arms, protocols and seeds, as they were written down before the runs.
* `comparison.json`, `report.*`: what was found.
* `runs/PROTOCOL/ARM-seedN/`: `config.yaml` (all that was set), `record.json` (metrics, protocol and its fingerprint,
  versions, hardware, commit) and `per_user.parquet` (the metrics of each user).
* `environment.txt`, `requirements.lock`: the packages of this machine, and those that FactorLM pins.
* `SHA256SUMS`: check the files with `sha256sum -c SHA256SUMS`.

`factorlm compare runs=[runs/PROTOCOL/ARM-seedN,...]` makes the comparison again. Users are numbers in place of their
ids, the same throughout. Interactions, texts, recommended items and weights are not in here, nor are metrics by
attributes of users or items.
"""


def supplement(folder: Path, answer: Mapping[str, Any]) -> dict[str, bytes]:
    """Content of a study's runs and comparison by name in the zip.

    Args:
        folder: of the study in the store, with its reports.
        answer: of ``comparison.json``, whose arms name their run folders.

    Raises:
        UserError: a run is gone.
    """
    protocols = answer["protocols"]
    places = {
        Path(run): f"runs/{protocol}/{arm}-seed{seed}"
        for protocol, comparison in protocols.items()
        for arm, content in comparison["arms"].items()
        for run, seed in zip(content["runs"], comparison["seeds"], strict=True)
    }
    tables = {run: _per_user(run) for run in places}
    numbers = _numbers(list(places), list(tables.values()))
    files: dict[str, bytes] = {}
    for run, place in places.items():
        record = scrubbed(read_record(run) or {}, LEFT_OUT[FILE])
        config = scrubbed(yaml.safe_load((run / CONFIG).read_text()), LEFT_OUT[CONFIG])
        files[f"{place}/{FILE}"] = _json(record)
        files[f"{place}/{CONFIG}"] = yaml.safe_dump(config, sort_keys=False).encode()
        files[f"{place}/per_user.parquet"] = _parquet(tables[run], numbers)
    renamed = {str(run): place for run, place in places.items()}
    files["comparison.json"] = _json(_renamed(answer, renamed))
    for path in sorted([*folder.glob("report.*"), *folder.glob("*.svg")]):
        files[path.name] = path.read_bytes()
        for here, there in renamed.items():
            files[path.name] = files[path.name].replace(here.encode(), there.encode())
        for asset in re.findall(rb'src="\.\./([\w./-]+)"', files[path.name]):
            found = folder.parent / asset.decode()
            if b".." not in asset and found.is_file():
                files[asset.decode()] = found.read_bytes()
                files[path.name] = files[path.name].replace(b'src="../' + asset, b'src="' + asset)
    return files


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a zip atomically, with the sums of its files; the same content gives the same bytes."""
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted({**files, "SHA256SUMS": sums.encode()}.items()):
            entry = zipfile.ZipInfo(f"{path.stem}/{name}", EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_bytes(content.getvalue())
    partial.replace(path)


def scrubbed(content: Any, left_out: Sequence[str] = ()) -> Any:
    """Plain data without some keys, and with the name of a file or folder in place of its path on this machine."""
    if isinstance(content, dict):
        return {key: scrubbed(value) for key, value in content.items() if key not in left_out}
    if isinstance(content, list):
        return [scrubbed(value) for value in content]
    if isinstance(content, str) and content.startswith(("/", "~", "file:/")):
        return Path(content).name
    return content


def _per_user(run: Path) -> pl.DataFrame:
    """The metrics of each user, but for those by attributes."""
    try:
        table = pl.read_parquet(run / "per_user.parquet")
    except FileNotFoundError as error:
        raise UserError(f"{run} is gone, or lacks per_user.parquet: compare the study again") from error
    return table.select(name for name in table.columns if not _by_attribute(name))


def _by_attribute(column: str) -> bool:
    part = split_name(column)[1]
    return part is not None and "=" in part and not part.startswith("train_interactions=")


def _numbers(runs: Sequence[Path], tables: Sequence[pl.DataFrame]) -> dict[str, int]:
    """A number for each user of any table, in an order that tells nothing."""
    key = hashlib.sha256()
    for run in runs:
        for path in (run / name for name in HIDDEN):
            key.update(path.read_bytes() if path.exists() else b"")
    users = {str(user) for table in tables for user in table["user_id"]}
    order = sorted(users, key=lambda user: hmac.digest(key.digest(), user.encode(), "sha256"))
    return {user: place for place, user in enumerate(order, 1)}


def _parquet(table: pl.DataFrame, numbers: Mapping[str, int]) -> bytes:
    users = pl.Series("user_id", [numbers[str(user)] for user in table["user_id"]], dtype=pl.Int64)
    content = io.BytesIO()
    table.with_columns(users).sort("user_id").write_parquet(content)
    return content.getvalue()


def _renamed(content: Any, names: Mapping[str, str]) -> Any:
    """A comparison with the places of runs in the zip."""
    if isinstance(content, dict):
        return {key: _renamed(value, names) for key, value in content.items()}
    if isinstance(content, list):
        return [_renamed(value, names) for value in content]
    return names.get(content, content) if isinstance(content, str) else content


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
