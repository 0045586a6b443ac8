"""A study: one argued question, its arms, protocols and seeds, read from ``study.yaml``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from factorlm.errors import UserError


@dataclass(frozen=True)
class Arm:
    """One arm: its overrides by protocol, and the arms whose runs of the same protocol and seed its config names.

    Attributes:
        overrides: by protocol.
        runs: arms by key of the config, such as ``init_from`` or ``baseline.runs``: one arm, or several.
    """

    overrides: dict[str, list[str]]
    runs: dict[str, str | list[str]]

    @property
    def after(self) -> list[str]:
        """All arms whose runs it needs."""
        return [arm for arms in self.runs.values() for arm in ([arms] if isinstance(arms, str) else arms)]


@dataclass(frozen=True)
class Study:
    """A study as it was written down before its runs.

    Attributes:
        folder: that holds it, and gives it its name.
        question, metric: what is asked and the primary metric that answers it.
        smallest_effect: the smallest difference that matters.
        baseline: arm that the others are compared with.
        seeds, protocols, arms: what runs: every arm under every protocol with every seed.
        shared: overrides of every run.
    """

    folder: Path
    question: str
    metric: str
    smallest_effect: float
    baseline: str
    seeds: list[int]
    protocols: dict[str, list[str]]
    arms: dict[str, Arm]
    shared: list[str]

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name


def load_study(studies: Path, name: str) -> Study:
    """Read the ``study.yaml`` of a study.

    Args:
        studies: parent of study folders.
        name: of a folder there, or the path of a folder.

    Raises:
        UserError: there is none, or it is malformed; the message names the key.
    """
    folder = Path(name).resolve() if (Path(name) / "study.yaml").exists() else studies / name
    path = folder / "study.yaml"
    if not path.exists():
        near = get_close_matches(folder.name, [p.parent.name for p in folder.parent.glob("*/study.yaml")], n=1)
        raise UserError(f"study={folder.name}: there is no {path}" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    expected = ("question", "metric", "smallest_effect", "baseline", "seeds", "protocols", "arms", "shared")
    missing = [key for key in expected if key not in (content or {})]
    unknown = [key for key in content or {} if key not in expected]
    if missing or unknown:
        raise UserError(f"{path}: missing keys {missing}, unknown keys {unknown}; it takes {', '.join(expected)}")
    arms = {name: _arm(path, name, arm, content["protocols"]) for name, arm in content.pop("arms").items()}
    study = Study(folder=folder, arms=arms, **content)
    if study.baseline not in arms:
        raise UserError(f"{path}: baseline {study.baseline!r} is not an arm; there are {', '.join(arms)}")
    for name, arm in arms.items():
        for other in arm.after:
            if other not in list(arms)[: list(arms).index(name)]:
                raise UserError(f"{path}: arm {name} needs the run of {other!r}, which is no arm before it")
    return study


def _arm(path: Path, name: str, content: Any, protocols: Iterable[str]) -> Arm:
    """An arm of the file: a list of overrides, or overrides, the same or one list for each protocol, and runs."""
    if isinstance(content, list):
        content = {"overrides": content}
    if not isinstance(content, dict) or not set(content) <= {"overrides", "runs"}:
        raise UserError(f"{path}: arm {name} must be a list of overrides, or have the keys overrides and runs")
    runs = content.get("runs", {})
    if not isinstance(runs, dict):
        raise UserError(f"{path}: arm {name} has runs {runs!r}; it must be like {{init_from: ARM}}")
    overrides = content.get("overrides", [])
    if not isinstance(overrides, dict):
        overrides = dict.fromkeys(protocols, overrides)
    if set(overrides) != set(protocols):
        raise UserError(
            f"{path}: arm {name} has overrides for {', '.join(overrides)}; "
            f"give a list for each protocol: {', '.join(protocols)}"
        )
    return Arm(overrides, runs)


def chosen(names: list[str], wanted: list[str] | None, key: str) -> list[str]:
    """The wanted ones of ``names``, in their order; all without a wish.

    Raises:
        UserError: a wanted one does not exist.
    """
    for name in wanted or []:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{key}={name}: the study has {', '.join(names)}{hint}")
    return [name for name in names if wanted is None or name in wanted]


def train_overrides(study: Study, protocol: str, arm: str) -> list[str]:
    """Overrides of the runs of an arm under a protocol, but for the seed."""
    names = [f"study={study.name}/{protocol}", f"arm={arm}"]
    return [*study.shared, *study.protocols[protocol], *study.arms[arm].overrides[protocol], *names]
