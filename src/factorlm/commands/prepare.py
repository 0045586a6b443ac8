"""``factorlm prepare``: the data and the backbone of a config, ready for every later command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.check import check_config
from factorlm.data.prepared import prepare

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig) -> None:
    """Fetch the backbone and prepare the data, then print the report; the last line names the folder."""
    check_config(config, ["dataset", "split", "backbone"])
    if config.backbone is not None:
        make(config.backbone).fetch(cache_dir(config))
    folder, meta = prepare(*make_data(config), cache_dir(config))
    split = meta["split"]
    print(f"{meta['interactions']:,} interactions of {meta['users']:,} users with {meta['items']:,} items")
    for part in ("train", "valid", "test"):
        counts = f"{split['rows'][part]:>9,} rows {split['users'][part]:>7,} users {split['items'][part]:>7,} items"
        print(f"{part:6s}{counts} {split['dropped'][part]:>7,} dropped")
    print(f"interactions whose user has another at the same time: {split['tied_timestamps']:.1%}")
    print(f"training rows later than the first test row: {split['leakage']:.1%}")
    print(f"item columns: {', '.join(meta['columns']['items'])}; user columns: {', '.join(meta['columns']['users'])}")
    print(f"fingerprints: data {meta['data_fingerprint']}, split {meta['split_fingerprint']}")
    if split["leakage"] > 0:
        print("note: this split trains on interactions later than some it tests on", file=sys.stderr)
    print(folder)
