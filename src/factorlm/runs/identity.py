"""What identifies a run, and what makes two runs comparable."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factorlm.code import plugin_hash, source_hash
from factorlm.errors import UserError

# packages whose code determines a result; the others only launch, store, compare or show it
DETERMINING = (
    "assets.py",
    "data",
    "backbones",
    "encoders",
    "heads",
    "baselines",
    "scoring.py",
    "models",
    "objectives",
    "metrics",
    "training",
    "evaluation/base.py",
    "evaluation/candidates.py",
    "evaluation/histories.py",
    "evaluation/ranking.py",
    "evaluation/pointwise.py",
    "config/build.py",
    "config/evaluator.py",
    "config/model.py",
    "commands/execute.py",
)

NAMING_RUNS = ("init_from", "soft_tokens.run", "baseline.runs")  # keys of a config that hold folders of other runs


def digest(content: Any) -> str:
    """Short hash of plain JSON data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def code_version(plugins: Sequence[str]) -> str:
    """Hash of the source that determines results, that of plugins included."""
    return digest([source_hash(*DETERMINING), *map(plugin_hash, plugins)])


def protocol(
    *,
    data: str,
    split: str,
    rows: Mapping[str, int],
    candidates: str,
    exclusion: str,
    metrics: Sequence[str],
    selection: str,
) -> dict[str, Any]:
    """The parts of the protocol; runs are comparable if and only if all are equal."""
    return {
        "data": data,
        "split": split,
        "rows": dict(rows),
        "candidates": candidates,
        "exclusion": exclusion,
        "metrics": list(metrics),
        "selection": selection,
    }


def require_own_fingerprint(record: Mapping[str, Any], name: str) -> None:
    """Refuse a record whose protocol was edited.

    Raises:
        UserError: the fingerprint does not belong to the protocol.
    """
    if digest(record["protocol"]) != record["fingerprint"]:
        raise UserError(
            f"{name}: the record was edited: fingerprint={record['fingerprint']}, but its protocol hashes to "
            f"{digest(record['protocol'])}; train the run again"
        )


@dataclass(frozen=True)
class Difference:
    """A part of the protocol that differs: both values in words, the runs, the reference first, and a remedy."""

    part: str
    values: str
    runs: list[str]
    remedy: str

    def __str__(self) -> str:
        return f"{self.part} {'differ' if self.part in PLURAL else 'differs'} ({self.values})"


def require_same_protocol(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to compare runs of different protocols.

    Args:
        records: record of a run by name; the first is the reference.

    Raises:
        UserError: one line with every part that differs, both values, and what would make the runs comparable.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for difference in protocol_differences(records):
        found.setdefault(tuple(difference.runs), []).append(f"{difference}: {difference.remedy}")
    if found:
        phrases = [
            f"{other}{f' and {len(more)} more' * bool(more)} cannot be compared with {reference}: {'; '.join(parts)}"
            for (reference, other, *more), parts in found.items()
        ]
        raise UserError(f"{'; '.join(phrases)}; or compare them anyway with force=true")


def protocol_differences(records: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """Where protocols differ from that of the first record, each part and pair of values once."""
    reference, *others = records
    first = records[reference]
    runs: dict[tuple[str, str, str], list[str]] = {}
    for name in others:
        other = records[name]
        for part in dict.fromkeys([*first["protocol"], *other["protocol"]]):
            if first["protocol"].get(part) != other["protocol"].get(part):
                runs.setdefault((part, *_difference(part, first, other)), [reference]).append(name)
    return [Difference(part, values, names, remedy) for (part, values, remedy), names in runs.items()]


PLURAL = ("data", "rows", "candidates", "metrics")
REMEDIES = {
    "data": "train both on the same files, read with the same dataset settings",
    "rows": "train both with the same dataset and split",
    "exclusion": "evaluate both by the same rule of what is excluded",
}


def _difference(part: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str]:
    """Both values of a part in words, and what would make them equal."""
    one, two = first["protocol"].get(part), other["protocol"].get(part)
    if part == "split":
        return _split_difference(first, other)
    if part == "metrics":
        sides = {"first": (one or [], two or []), "second": (two or [], one or [])}
        alone = {side: ", ".join(name for name in mine if name not in theirs) for side, (mine, theirs) in sides.items()}
        words = " and ".join(f"only the {side} has {names}" for side, names in alone.items() if names)
        return words or "their order", "train both with the same metrics and the same version of FactorLM"
    words = f"{_words(one)} against {_words(two)}"
    if part == "candidates":
        same_choice = str(one).partition(": ")[2] == str(two).partition(": ")[2]
        return words, "train both with the same split" if same_choice else f"evaluate both with {_candidates(str(one))}"
    if part == "selection":
        return words, f"train both with selection={str(one).removeprefix('max valid/').partition('/')[0]}"
    if part == "history":
        return (
            f"{one or 'train'} against {other['protocol'].get(part) or 'train'}",
            f"evaluate both with history={one or 'train'}",
        )
    return words, REMEDIES.get(part, "evaluate both with {part}={one}").format(part=part, one=_words(one))


def _split_difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str]:
    """The fields of the rules that differ; the hashes of the rows where all fields are equal."""
    rules = [{**record.get("split", {}).get("rule", {})} for record in (first, other)]
    keys = [key for key in dict.fromkeys([*rules[0], *rules[1]]) if rules[0].get(key) != rules[1].get(key)]
    if not keys:
        words = f"the same rule, but rows {first['protocol'].get('split')} against {other['protocol'].get('split')}"
        return words, "train both on the same data with the same version of FactorLM"
    one, two = (" ".join(_override(key, rule[key]) for key in keys if key in rule) for rule in rules)
    return f"{one or 'nothing'} against {two or 'nothing'}", f"train both with {one or two}"


def _candidates(value: str) -> str:
    """The overrides that lead to the candidates of a protocol, as far as they are known from it."""
    if uniform := re.search(r"(\d+) uniform, seed (\d+)", value):
        return f"candidates=uniform candidates.num={uniform[1]} candidates.seed={uniform[2]}"
    return "candidates=full" if value.endswith(": all") else "the same candidates"


def _override(key: str, value: Any) -> str:
    """A field of a split's rule as it is written on the command line."""
    if key == "name":
        return "split=" + re.sub("(?<=.)(?=[A-Z])", "_", str(value)).lower()
    return f"split.{key}={_words(value)}"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {content}" for key, content in value.items())
    return "nothing" if value is None else str(value)
