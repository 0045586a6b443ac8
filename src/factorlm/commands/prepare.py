"""``factorlm prepare``: the data and the backbone of a config, ready for every later command."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.check import check_config
from factorlm.data.prepared import prepare
from factorlm.data.rules import PARTS

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: DictConfig) -> None:
    """Fetch the backbone and prepare the data, then print the report; the last line names the folder."""
    check_config(config, ["dataset", "split", "backbone"])
    if config.backbone is not None:
        make(config.backbone).fetch(cache_dir(config))
    folder, meta = prepare(*make_data(config), cache_dir(config))
    print(f"{meta['interactions']:,} interactions of {meta['users']:,} users with {meta['items']:,} items")
    print("\n".join(split_lines(meta["split"])))
    print(f"item columns: {', '.join(meta['columns']['items'])}; user columns: {', '.join(meta['columns']['users'])}")
    print(f"fingerprints: data {meta['data_fingerprint']}, split {meta['split_fingerprint']}")
    if meta["split"]["leakage"]["after_first_test"] > 0:
        print("note: this split trains on interactions later than some it tests on", file=sys.stderr)
    print("the rows of each part, for other systems: train.parquet, valid.parquet and test.parquet in")
    print(folder)


def split_lines(report: Mapping[str, Any]) -> list[str]:
    """The report of a split for a person; what is zero is left out."""
    lines = []
    for part in PARTS:
        counts = {"rows": report["rows"][part], "users": report["users"][part], "items": report["items"][part]}
        if any(report["positives"][name] < report["rows"][name] for name in PARTS):
            counts["positives"] = report["positives"][part]
        if report["questions"].get(part, counts["users"]) != counts["users"]:
            counts["questions"] = report["questions"][part]
        lines.append(f"{part:6s}" + "".join(f"{count:>10,} {name}" for name, count in counts.items()))
    for what, key in (("dropped", "dropped"), ("kept", "cold")):
        for part, counts in report[key].items():
            found = [f"{count:,} {name}" for name, count in counts.items() if count]
            if found:
                lines.append(f"{what}, {part.replace('_', ' ')}: {', '.join(found)}")
    leakage = report["leakage"]
    return [
        *lines,
        f"interactions at the same time as another of their user: {report['tied_timestamps']:.1%}",
        f"valid and test rows that the order of equal times decides: {report['ambiguous_targets']:.1%}",
        f"training rows later than the first test row: {leakage['after_first_test']:.1%}; "
        f"than a test row, on average: {leakage['after_test']:.1%}",
        f"test rows whose user trains on a later row: {leakage['own_future']:.1%}",
    ]
