"""``factorlm report``: the files of a study's report, made again without training."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factorlm.comparison.study import load_study
from factorlm.errors import UserError
from factorlm.reporting.study_files import write_study
from factorlm.reporting.tables import cost, effects, markdown, quality
from factorlm.reporting.verdict import verdict, warnings

if TYPE_CHECKING:
    from omegaconf import DictConfig

# what the report of a protocol needs
PROTOCOL = (
    "metric", "baseline", "margin", "arms", "users", "seeds", "resamples", "fingerprint", "activity", "left_out",
    "dropped", "not_comparable",
)  # fmt: skip


def main(config: DictConfig) -> None:
    """Write the report of a study and name its files."""
    root, studies = Path(config.run.root).expanduser(), Path(config.studies)
    if config.study is None:
        raise UserError(f"name a study: factorlm report STUDY; there are {', '.join(_known(root, studies)) or 'none'}")
    folder = root / Path(config.study).name
    answer = _answer(folder, studies, config.study)
    files = write_study(answer, folder)
    published = _publish(config, answer) if config.wandb else []
    if config.json:
        paths = {"html": files.html, "markdown": files.markdown, "latex": files.latex, "figure": files.figure}
        print(json.dumps({"study": folder.name, **{name: path and str(path) for name, path in paths.items()}}))
        return
    if files.page.question:
        print(files.page.question)
    for section in files.page.sections:
        print(f"  {section.title}: {section.answer}")
    names = [str(path) for path in (files.html, files.markdown, files.latex, files.figure) if path is not None]
    print("\n".join(["", *(f"report {name}" for name in [*names, *published])]))


def _answer(folder: Path, studies: Path, study: str) -> dict[str, Any]:
    """The comparison of a study in the store, or the committed one, or none where there is a sweep."""
    if (folder / "comparison.json").exists():
        answer = _read(folder / "comparison.json", "study", "question", "protocols")
        if not isinstance(answer["protocols"], dict) or not answer["protocols"]:
            raise UserError(f"{folder / 'comparison.json'} has no protocols; factorlm compare writes it again")
        for comparison in answer["protocols"].values():
            _require(comparison, folder / "comparison.json", *PROTOCOL)
        return answer
    results = (Path(study) if (Path(study) / "study.yaml").exists() else studies / study) / "results"
    if results.exists():
        written = load_study(studies, study)
        protocols = {
            name: _read(results / f"{name}.json", *PROTOCOL)
            for name in written.protocols
            if (results / f"{name}.json").exists()
        }
        return {"study": written.name, "question": written.question, "protocols": protocols}
    if (folder / "sweep.json").exists():
        return {"study": folder.name, "question": "", "protocols": {}}
    near = get_close_matches(folder.name, _known(folder.parent, studies), n=1)
    raise UserError(
        f"study={study}: there is no {folder / 'comparison.json'}, no sweep.json beside it and no {results}"
        + (f"; did you mean {near[0]!r}?" if near else f"; factorlm compare study={study} makes one")
    )


def _known(root: Path, studies: Path) -> list[str]:
    """Studies that a report can be made of."""
    found = [*root.glob("*/comparison.json"), *root.glob("*/sweep.json"), *studies.glob("*/results")]
    return sorted({path.parent.name for path in found})


def _read(path: Path, *keys: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); factorlm compare writes it again") from error
    _require(content, path, *keys)
    return dict(content)


def _require(content: Any, path: Path, *keys: str) -> None:
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(
            f"{path} has no {', '.join(missing)}: it is no comparison of a study; factorlm compare writes one"
        )


def _publish(config: DictConfig, answer: dict[str, Any]) -> list[str]:
    """Make the W&B Report and the workspace; their addresses."""
    if config.tracking is None or not answer["protocols"]:
        raise UserError("wandb=true needs a compared study and tracking=wandb, which names project and entity")
    from factorlm.tracking.workspaces import OnlineStudy, publish

    sections = {
        protocol: [
            "\n".join(f"* {sentence}" for sentence in [*warnings(comparison), *verdict(comparison)]),
            *(markdown(cells) for cells in (quality(comparison, written=True), effects(comparison), cost(comparison))),
        ]
        for protocol, comparison in answer["protocols"].items()
    }
    metric = next(iter(answer["protocols"].values()))["metric"]
    where = config.tracking.project, config.tracking.entity or ""
    return publish(OnlineStudy(*where, answer["study"], answer["question"], metric, sections))
