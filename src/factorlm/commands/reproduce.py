"""``factorlm reproduce``: a published study trained anew, each number against the committed one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from factorlm.commands.study import run_name, train_study
from factorlm.comparison.reproduction import Number, comparison_numbers, run_numbers, same_machine
from factorlm.comparison.runs import compare_runs
from factorlm.comparison.study import Study, chosen, load_study
from factorlm.errors import AuditError, UserError
from factorlm.reporting.tables import rich_table
from factorlm.runs.record import read_record, write_json

Records = dict[tuple[str, str, int], dict[str, Any]]  # by protocol, arm and seed


def main(config: DictConfig) -> None:
    """Train what is asked for, and print how many numbers of each arm are reproduced.

    Raises:
        AuditError: one is not.
    """
    if config.study is None:
        raise UserError("name a published study: factorlm reproduce experiments/NAME")
    study = load_study(Path(config.studies), config.study)
    recorded = {
        name: read_results(study, name) for name in chosen(list(study.protocols), config.protocols, "protocols")
    }
    known = list(dict.fromkeys(run["arm"] for content in recorded.values() for run in content["runs"]))
    gone = [arm for arm in known if arm not in study.arms]
    if gone:
        raise UserError(f"{study.folder}/results holds arm {gone[0]}, which study.yaml lacks: check out its commit")
    arms = chosen(known, config.arms, "arms")
    all_seeds = list(dict.fromkeys(run["seed"] for content in recorded.values() for run in content["runs"]))
    wanted = None if config.seeds is None else list(map(str, config.seeds))
    seeds = list(map(int, chosen(list(map(str, all_seeds)), wanted, "seeds")))
    folders = train_study(config, study, list(recorded), arms, seeds, [])
    numbers: list[Number] = []
    notes: list[str] = []
    for protocol, content in recorded.items():
        runs = [run for run in content["runs"] if run["arm"] in arms and run["seed"] in seeds]
        records = [read_record(folders[run_name(protocol, run["arm"], run["seed"])]) or {} for run in runs]
        pairs = list(zip(runs, records, strict=True))
        for run, record in pairs:
            numbers += run_numbers(protocol, content, run, record)
            notes += _changes(run, record)
        whole = len(runs) == len(content["runs"])
        if whole and all(same_machine(run, record) for run, record in pairs):
            found = compare_runs(
                {arm: [folders[run_name(protocol, arm, seed)] for seed in content["seeds"]] for arm in content["arms"]},
                content["metric"],
                content["resamples"],
                content["margin"],
            )
            numbers += comparison_numbers(protocol, content, json.loads(json.dumps(found)))
        else:
            notes.append(f"{protocol}: effects, intervals and p-values are not judged: they need {_lack(whole)}")
    _report(config, study, numbers, list(dict.fromkeys(notes)))


def _lack(whole: bool) -> str:
    return "the recorded processor and versions" if whole else "every arm and seed"


def read_results(study: Study, protocol: str) -> dict[str, Any]:
    """The committed record of a protocol.

    Raises:
        UserError: there is none that can be read.
    """
    path = study.folder / "results" / f"{protocol}.json"
    try:
        content = json.loads(path.read_text())
        missing = [key for key in ("arms", "runs", "seeds", "metric", "resamples", "margin") if key not in content]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: publish it, with factorlm compare {study.name} publish=true") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no record of a study: {error}; check it out again") from error
    if missing:
        raise UserError(f"{path} is no record of a study: it lacks {', '.join(missing)}; check it out again")
    return dict(content)


def _changes(run: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """In which code, versions and hardware the run made anew differs from the recorded one."""
    then, now = run.get("git") or {}, record.get("git") or {}
    changes = {"the processor": (run["hardware"]["cpu"], record["hardware"]["cpu"])}
    if "code" in run:
        changes["code"] = run["code"], record["code"]
    elif then.get("commit") != now.get("commit"):
        changes["commit"] = str(then.get("commit"))[:10], str(now.get("commit"))[:10]
    changes |= {name: (version, record["versions"].get(name)) for name, version in run["versions"].items()}
    found = [f"{name} was {old}, and is {new}" for name, (old, new) in changes.items() if old != new]
    return found + ["files differed from the commit when the record was made"] * bool(then.get("dirty"))


def _report(config: DictConfig, study: Study, numbers: list[Number], notes: list[str]) -> None:
    wrong = [number for number in numbers if not number.reproduced]
    equal = sum(number.equal for number in numbers)
    folder = Path(config.run.root).expanduser() / study.name
    rows = [asdict(number) | {"reproduced": number.reproduced, "equal": number.equal} for number in numbers]
    summary = {"study": study.name, "numbers": len(numbers), "equal": equal, "differing": len(wrong), "notes": notes}
    write_json(folder / "reproduction.json", summary | {"all": rows})
    if config.json:
        print(json.dumps(summary | {"file": str(folder / "reproduction.json")}))
    else:
        console = Console()
        for note in notes:
            console.print(f"[yellow]{note}", highlight=False, soft_wrap=True)
        console.print(rich_table(_table(numbers)))
        print(f"{len(numbers) - len(wrong):,} of {len(numbers):,} numbers reproduced, {equal:,} to the last bit")
        print(f"every number {folder / 'reproduction.json'}")
    if wrong:
        raise AuditError(f"{len(wrong):,} of {len(numbers):,} numbers are not reproduced, first {_words(wrong[0])}")


def _words(number: Number) -> str:
    allowed = f" (± {number.tolerance:.2g})" if number.tolerance else ""
    return f"{number.protocol}/{number.arm} {number.name}: recorded {number.recorded}{allowed}, now {number.found}"


def _table(numbers: Sequence[Number]) -> list[list[str]]:
    """A row for each protocol and arm; ``farthest`` is in deviations over seeds, where hardware or versions differ."""
    table = [["protocol", "arm", "numbers", "equal", "within tolerance", "farthest", "not reproduced"]]
    for protocol, arm in dict.fromkeys((number.protocol, number.arm) for number in numbers):
        own = [number for number in numbers if (number.protocol, number.arm) == (protocol, arm)]
        equal = sum(number.equal for number in own)
        wrong = sum(not number.reproduced for number in own)
        farthest = f"{max(number.deviations for number in own):.1f}"
        table.append([protocol, arm, *map(str, (len(own), equal, len(own) - equal - wrong, farthest, wrong))])
    return table
