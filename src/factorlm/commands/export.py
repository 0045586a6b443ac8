"""``factorlm export``: a compared study as a zip for a paper's supplement."""

from __future__ import annotations

import json
import platform
from importlib.metadata import distributions
from pathlib import Path

from omegaconf import DictConfig

from factorlm.comparison.study import load_study
from factorlm.config.compose import conf_dir
from factorlm.errors import UserError
from factorlm.reporting.supplement import ABOUT, supplement, write_zip


def main(config: DictConfig) -> None:
    """Write the zip and name it."""
    if config.study is None:
        raise UserError("name a compared study: factorlm export STUDY")
    study = load_study(Path(config.studies), config.study)
    folder = Path(config.run.root).expanduser() / study.name
    try:
        answer = json.loads((folder / "comparison.json").read_text())
        protocols = answer["protocols"]
    except FileNotFoundError as error:
        raise UserError(f"{folder}/comparison.json is missing: factorlm compare {study.name} comes first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/comparison.json is no comparison: factorlm compare {study.name} again") from error
    target = Path(config.out or f"{study.name}.zip").expanduser()
    if target.suffix != ".zip" or not target.parent.is_dir():
        raise UserError(f"out={target}: name a file that ends in .zip, in a folder that exists")
    files = supplement(folder, answer)
    files["ABOUT.md"] = ABOUT.format(study=study.name, question=study.question).encode()
    files["environment.txt"] = _environment().encode()
    for path in (study.folder / "study.yaml", study.folder / "README.md", conf_dir().parent / "requirements.lock"):
        if path.exists():
            files[path.name] = path.read_bytes()
    write_zip(target, files)
    runs = sum(len(arm["runs"]) for comparison in protocols.values() for arm in comparison["arms"].values())
    print(f"{runs} runs, {len(files) + 1} files\n{target}")


def _environment() -> str:
    found = {(one.metadata["Name"], one.version) for one in distributions()}
    return (
        "\n".join([f"python=={platform.python_version()}", *(f"{name}=={version}" for name, version in sorted(found))])
        + "\n"
    )
