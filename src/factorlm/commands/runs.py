"""``factorlm runs``: what is in the store, and what may be done with it."""

from __future__ import annotations

import json
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.commands.run_filters import Run, parse, select, value_of
from factorlm.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERBS = ("diff", "tail", "export", "delete", "import")
SHOWN = ("status", "valid", "test", "metric", "seconds")


def main(config: DictConfig) -> None:
    """List the runs that pass every filter, or hand over to the verb that is the first word."""
    root = Path(config.run.dir or config.run.root).expanduser()
    words = [str(word) for word in config.words]
    verb = words[0] if words else ""
    if verb in VERBS:
        import_module(f"factorlm.commands.runs_{verb}").main(config, root, words[1:])
        return
    near = get_close_matches(verb, VERBS, n=1, cutoff=0.7)
    if near and parse(verb) is None:
        raise UserError(f"runs {verb}: no such verb; did you mean {near[0]!r}? There are {', '.join(VERBS)}")
    runs = select(root, words, config.sort, ["metrics"] if config.json else [])
    if config.json:
        print(json.dumps(runs))
    else:
        print_runs(runs, root, words, config.sort)


def print_runs(runs: list[Run], root: Path, words: list[str], sort: str) -> None:
    """Print a table of runs with a column for each key of a filter or of the order."""
    if not runs:
        print(f"no run under {root} passes {' '.join(words)}" if words else f"no runs under {root}")
        return
    asked = [found.key for found in map(parse, words) if found]
    more = [key for key in dict.fromkeys([*asked, sort.removeprefix("-")]) if key not in (*SHOWN, "folder", "study")]
    if sort == "started" and "started" not in asked:
        more.remove("started")
    columns = [*SHOWN, *more]
    rows = [[*columns, f"folder in {root}"]]
    rows += [[*(_cell(run, key) for key in columns), _text(Path(run["folder"]).relative_to(root))] for run in runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [key in ("valid", "test", "seconds") for key in columns] + [False]
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        print(" ".join(cell.rjust(width) if numeric else cell.ljust(width) for cell, width, numeric in cells).rstrip())


def _cell(run: Run, key: str) -> str:
    value = value_of(run, key)
    if isinstance(value, float):
        return f"{value:.0f}" if key == "seconds" else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"
    return "" if value is None else _text(value)


def _text(value: object) -> str:
    """A value as text that a terminal takes."""
    text = str(value)
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)
