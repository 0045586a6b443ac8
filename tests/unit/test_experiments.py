"""The index of experiments is what their records say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_index_is_current() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "experiments.py"))["page"]()
    assert page == (ROOT / "docs" / "experiments.md").read_text(), "python scripts/experiments.py > docs/experiments.md"
    for folder in ROOT.glob("experiments/*/results"):
        assert f"[{folder.parent.name}](../experiments/{folder.parent.name}/README.md)" in page
