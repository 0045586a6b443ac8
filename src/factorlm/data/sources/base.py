"""The interface of a source."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from factorlm.data.tables import Frames


class Source(Protocol):
    """A dataset that can be read."""

    def identity(self) -> object:
        """What determines the content, as plain JSON data; cheap to compute."""
        ...

    def load(self, cache_dir: Path) -> Frames:
        """Fetch and read the tables; downloads are cached under ``cache_dir``."""
        ...
