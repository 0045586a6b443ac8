"""The one copy of plotly.js that pages of a store share."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from factorlm.assets import write_atomically


def plotly_js() -> Path:
    """The file in plotly's Python package."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def share_plotly(root: Path) -> Path:
    """Put it into ``assets`` of a store, unless it is there.

    Args:
        root: of the store, ``run.root``.

    Returns:
        Its path.
    """
    target = root / "assets" / f"plotly-{version('plotly')}.min.js"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, plotly_js().read_bytes())
    return target
