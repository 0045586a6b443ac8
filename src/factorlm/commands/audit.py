"""``factorlm audit``: ways in which a finished run may be wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import torch

from factorlm.backbones.prompting import scorer_in
from factorlm.commands.evaluate import open_run
from factorlm.commands.execute import run_protocol
from factorlm.config.evaluator import make_evaluator
from factorlm.config.model import field_specs
from factorlm.data.fields import FieldSpec
from factorlm.errors import AuditError, UserError
from factorlm.evaluation.audit import Audited, audit
from factorlm.runs.identity import code_version

if TYPE_CHECKING:
    from omegaconf import DictConfig

COLORS = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@torch.no_grad()
def main(config: DictConfig) -> None:
    """Print each finding and, where it is not passed, why it matters; with ``json`` one document.

    Raises:
        AuditError: a check failed.
    """
    if config.run.dir is None:
        raise UserError("run.dir is missing: name the folder of a finished run, run.dir=PATH")
    folder = Path(config.run.dir).expanduser()
    run = open_run(folder, config.cache)
    evaluator = make_evaluator(run.config, run.prepared)
    again = evaluator.evaluate(run.model, "test")
    specs = field_specs(run.config) if run.config.baseline is None else {}
    columns = {name: spec for name, spec in specs.items() if spec.side == "user" and spec.kind in ("text", "multi_hot")}
    contexts = {name: _values(run.prepared.frames["user"][spec.column], spec) for name, spec in columns.items()}
    per_user, table = (_read(folder / f"{name}.parquet") for name in ("per_user", again.table_name))
    code = code_version(list(run.config.plugins))
    parts = run_protocol(run.config, run.prepared, evaluator)
    prompts = scorer_in(run.model)
    found = Audited(
        run.record, parts, code, run.prepared, per_user, table, again, evaluator, run.model, prompts, contexts
    )
    findings = list(audit(found))
    failed = [finding.check for finding in findings if finding.level == "fail"]
    if config.json:
        print(json.dumps({"run": str(folder), "failed": failed, "findings": [asdict(finding) for finding in findings]}))
    else:
        from rich.console import Console

        console = Console()
        for finding in findings:
            level = f"[{COLORS[finding.level]}]{finding.level}[/]"
            console.print(f"{level}  [bold]{finding.check}[/]: {finding.found}", highlight=False, soft_wrap=True)
            if finding.level != "pass":
                console.print(f"      {finding.why}", style="dim", highlight=False, soft_wrap=True)
    if failed:
        raise AuditError(f"{folder}: {len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")


def _values(column: pl.Series, spec: FieldSpec) -> list[str | list[str]]:
    """What a field tells of each user: a text, or several values."""
    if column.dtype == pl.List:
        return [[str(value) for value in values or []] for values in column.to_list()]
    texts = column.cast(pl.String).fill_null("").to_list()
    return texts if spec.kind == "text" else [text.split(spec.separator) for text in texts]


def _read(path: Path) -> pl.DataFrame:
    if not path.exists():
        raise UserError(f"{path} is missing: factorlm evaluate run.dir={path.parent} writes it again")
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise AuditError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
