"""``factorlm score``: lists of any system under our metrics; several are compared user by user."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factorlm.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from factorlm.evaluation.foreign import Scored


def main(config: DictConfig) -> None:
    """Print the metrics; with ``json`` one document.

    Raises:
        UserError: the files cannot be scored, or an option makes no sense.
    """
    if config.rows and (config.run or config.qrels):
        raise UserError("--rows holds labels and scores itself: leave it out, or --qrels and --run")
    if not config.rows and not (config.run and config.qrels):
        raise UserError("name what is relevant and who is scored, --qrels FILE --run FILE ..., or --rows FILE ...")
    if not config.ks or min(config.ks) < 1:
        raise UserError(f"ks={list(config.ks)}: give cut-offs of 1 or more")
    if config.resamples < 1:
        raise UserError(f"resamples={config.resamples}: it must be 1 or more")
    folder = _made(config.out) if config.out else None
    scored = _scored(config)
    for name, system in scored.items():
        for note in system.notes:
            print(f"{name}: {note}", file=sys.stderr)
    for name, system in scored.items():
        if config.metric and config.metric not in system.values:
            raise UserError(f"metric={config.metric} is not among those of {name}: {', '.join(system.values)}")
    comparison = _compared(config, scored) if len(scored) > 1 else None
    if folder:
        _write(folder, scored, comparison)
    if config.json:
        print(json.dumps(_document(scored, comparison), allow_nan=False))
    else:
        _show(scored, comparison)


def _scored(config: DictConfig) -> dict[str, Scored]:
    from factorlm.evaluation.foreign import read_qrels, read_rows, read_run, score_rows, score_run

    columns = {str(role): str(name) for role, name in config.columns.items()}
    names = _names(list(config.run or config.rows))
    if config.rows:
        tables = {name: read_rows(path, columns) for name, path in names.items()}
        first, *others = tables
        for name in others:
            if not tables[name].drop("score").equals(tables[first].drop("score")):
                raise UserError(
                    f"{names[name]} has other users or labels than {names[first]}: score the same rows in one order"
                )
        return {name: score_rows(table, config.threshold) for name, table in tables.items()}
    qrels = read_qrels(config.qrels, columns, config.min_value)
    return {name: score_run(qrels, read_run(path, columns), list(config.ks)) for name, path in names.items()}


def _names(paths: list[str]) -> dict[str, str]:
    """A name for each file: its stem, or with its folder where stems repeat."""
    files = [Path(path).expanduser().resolve() for path in paths]
    stems = [file.stem for file in files]
    names = [file.stem if stems.count(file.stem) == 1 else f"{file.parent.name}/{file.stem}" for file in files]
    if len(set(names)) < len(names):
        raise UserError(f"two files would be called {max(names, key=names.count)}: rename one")
    return dict(zip(names, paths, strict=True))


def _compared(config: DictConfig, scored: dict[str, Scored]) -> dict[str, Any]:
    from factorlm.comparison.compare import compare_tables

    metric = config.metric or ("auc" if config.rows else f"ndcg@{config.ks[0]}")
    return compare_tables({name: [system.per_user] for name, system in scored.items()}, metric, config.resamples)


def _document(scored: dict[str, Scored], comparison: dict[str, Any] | None) -> dict[str, Any]:
    systems = {
        name: {
            "metrics": {metric: None if math.isnan(value) else value for metric, value in system.values.items()},
            "users": len(system.per_user),
            "notes": system.notes,
        }
        for name, system in scored.items()
    }
    if comparison is None:
        return next(iter(systems.values()))
    return {"runs": systems, "comparison": comparison}


def _made(out: str) -> Path:
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be made: {error.strerror}; name a folder you can write to") from error
    return folder


def _write(folder: Path, scored: dict[str, Scored], comparison: dict[str, Any] | None) -> None:
    from factorlm.runs.record import write_json

    for name, system in scored.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        system.per_user.write_parquet(path)
    write_json(folder / "scores.json", _document(scored, comparison))


def _show(scored: dict[str, Scored], comparison: dict[str, Any] | None) -> None:
    from factorlm.reporting.metrics import metric_lines

    if comparison is None:
        print("\n".join(metric_lines(next(iter(scored.values())).values)))
        return
    from rich.console import Console

    from factorlm.reporting.tables import effects, rich_table
    from factorlm.reporting.verdict import verdict

    console = Console()
    names = dict.fromkeys(name for system in scored.values() for name in system.values)
    values = [[name, *(f"{system.values.get(name, math.nan):.4f}" for system in scored.values())] for name in names]
    console.print(rich_table([["metric", *scored], *values]))
    console.print(f"\n[italic]{comparison['metric']} against {comparison['baseline']}", highlight=False)
    console.print(rich_table(effects(comparison)))
    for sentence in verdict(comparison):
        console.print(f"  {sentence}", highlight=False, soft_wrap=True)
