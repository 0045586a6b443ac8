"""Filters of runs, as in ``study=demo head=fm 'ndcg>0.1'``, and the runs that a command names."""

from __future__ import annotations

import json
import operator
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from factorlm.commands.progress import track
from factorlm.config.options import leaves, option_of, options
from factorlm.errors import UserError
from factorlm.runs.index import FIELDS, Found, read_runs

OPERATORS = {
    "=": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
OF_A_RUN = (*FIELDS, "folder", "seconds", "metric", "valid", "test")  # keys that every run has
SLOW = 500  # runs to be read from their folders that take long enough for a progress bar
Run = dict[str, Any]


@dataclass(frozen=True)
class Filter:
    """A condition on a value of a run."""

    key: str
    operator: str
    wanted: str

    @property
    def orders(self) -> bool:
        """Whether values are compared by their order."""
        return self.operator not in ("=", "!=")

    def passes(self, run: Mapping[str, Any]) -> bool:
        """Whether the run's value is as wanted. What cannot be ordered, as a run without the value, is not passed."""
        value = value_of(run, self.key)
        if not self.orders:
            return self._equal(value) == (self.operator == "=")
        wanted = _plain(self.wanted)
        if all(isinstance(one, (int, float)) for one in (value, wanted)):
            return bool(OPERATORS[self.operator](value, wanted))
        return isinstance(value, str) and bool(OPERATORS[self.operator](value, self.wanted))

    def _equal(self, value: Any) -> bool:
        if value is None:
            return self.wanted in ("null", "none")
        inside = self.key == "study" and str(value).startswith(f"{self.wanted}/")  # a protocol of the study
        return inside or str(value) == self.wanted or bool(value == _plain(self.wanted))


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parse(word: str) -> Filter | None:
    """The filter that a word is, or None if it is a name."""
    found = re.fullmatch(r"([^=<>!\"]+)(!=|>=|<=|=|>|<)(.*)", word)
    return Filter(*found.groups()) if found else None


def value_of(run: Mapping[str, Any], key: str) -> Any:
    """A value of a run: one that every run has, else of its config or metrics; of a config group the option."""
    if key in OF_A_RUN:
        return run[key]
    value = run["values"].get(key)
    if options(key) and (value is None or isinstance(value, dict)) and key in run["values"]:
        return option_of(key, value)
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def select(root: Path, words: Sequence[str], sort: str = "started", parts: Sequence[str] = ()) -> list[Run]:
    """The runs that pass every filter and, where runs are named, are one of these; sorted.

    Args:
        root: of the store.
        words: filters and names of runs.
        sort: key to sort by; with ``-`` before it, from large to small. Runs without the value come last.
        parts: as in `read_runs`.

    Raises:
        UserError: no run has a key, or the name; or a filter asks for an option that its group lacks.
    """
    filters = [found for found in map(parse, words) if found]
    for one in filters:
        known = options(one.key)
        if known and not one.orders and one.wanted not in known:
            raise UserError(f"{one.key}={one.wanted}: no such option{_nearest(one.wanted, known)}")
    sort_key = sort.removeprefix("-")
    keys = list(dict.fromkeys(key for key in (*(one.key for one in filters), sort_key) if key not in OF_A_RUN))
    runs, unreadable = read_runs(root, keys, parts, _track)
    if unreadable:
        shown = ", ".join(str(folder) for folder in unreadable[:3])
        print(f"left out, for want of a readable record.json: {len(unreadable)}, as {shown}", file=sys.stderr)
    for key in keys if runs else []:
        if not any(key in run["values"] for run in runs):
            raise UserError(f"{key}: no run under {root} has it{_nearest(key, _known_keys(root))}")
    for one in filters:
        if one.orders and not isinstance(_plain(one.wanted), (int, float)):
            numbers = [run for run in runs if isinstance(value_of(run, one.key), (int, float))]
            if numbers:
                raise UserError(f"{one.key}{one.operator}{one.wanted}: {one.wanted!r} is no number, as {one.key} is")
    names = [word for word in words if parse(word) is None]
    if names:
        runs = [find_run(runs, name, root) for name in names]
    runs = [run for run in runs if all(one.passes(run) for one in filters)]
    return _sorted(runs, sort_key, sort.startswith("-"))


def find_run(runs: Sequence[Run], name: str, root: Path) -> Run:
    """The run of a folder, also as seen from the root, of a folder's name, or of a key, of which the start is enough.

    Raises:
        UserError: there is none, or there are several.
    """
    paths = os.path.abspath(name), os.path.abspath(root / name)
    found = [run for run in runs if os.path.abspath(run["folder"]) in paths]
    found = found or [run for run in runs if Path(run["folder"]).name == name]
    found = found or [run for run in runs if len(name) >= 4 and str(run["key"]).startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name} is the name of {len(found)} runs, as {found[0]['folder']} and {found[1]['folder']}")
    near = _nearest(name, [Path(run["folder"]).name for run in runs])
    raise UserError(f"{name}: no such run under {root}{near}; a filter is KEY=VALUE, or in quotes 'KEY>VALUE'")


def _sorted(runs: list[Run], key: str, descending: bool) -> list[Run]:
    having = [run for run in runs if value_of(run, key) is not None]
    lacking = [run for run in runs if value_of(run, key) is None]

    def place(run: Run) -> tuple[bool, Any]:
        value = value_of(run, key)
        return (False, value) if isinstance(value, (int, float)) else (True, str(value))

    return sorted(having, key=place, reverse=descending) + lacking


def _known_keys(root: Path) -> list[str]:
    runs, _ = read_runs(root, parts=["config", "metrics"])
    keys = dict.fromkeys(
        name for run in runs for name in (*run["metrics"], *run["config"], *dict(leaves(run["config"])))
    )
    return [*OF_A_RUN, *keys, *(key.removeprefix("test/") for key in keys), *(k[5:].partition("@")[0] for k in keys)]


def _nearest(wrong: str, known: Iterable[str]) -> str:
    near = get_close_matches(wrong, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _track(items: Sequence[Found]) -> Iterable[Found]:
    return track(items, "reading runs") if len(items) >= SLOW else items
