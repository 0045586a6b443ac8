"""Notebooks read the store: they run on small runs, train nothing, and hold no outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from factorlm.commands.train import train
from factorlm.config.compose import compose_config

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def store(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs that the quickstart asks for, on synthetic data."""
    folder = tmp_path_factory.mktemp("work")
    shared = ["dataset=synthetic", "tracking=none", "trainer.max_epochs=2", f"cache={cache}", f"run.root={folder}/runs"]
    for arm in (["arm=popular", "baseline=bias"], ["arm=ids"]):
        for seed in (1, 2):
            train(compose_config("train", [*shared, *arm, f"seed={seed}"]), progress=False)
    (folder / "notebooks").mkdir()
    return folder


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare_two_arms", "error_analysis", "quickstart"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, store: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(store / "notebooks")}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in cells) >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_no_outputs_and_does_not_train(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert not any(room in cell.source for room in ("factorlm.commands", "factorlm.training") for cell in cells)
