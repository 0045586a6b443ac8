"""The source that determines a result, as a hash: a changed line never passes for the old result."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from factorlm.errors import UserError


@cache
def source_hash(*names: str) -> str:
    """Hash of the Python files of this package's rooms, such as ``data`` or ``config/model.py``."""
    return _hash(Path(__file__).parent, names)


@cache
def plugin_hash(name: str) -> str:
    """Hash of the Python files of another package or module.

    Raises:
        UserError: it cannot be found.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(f"plugins: there is no package {name!r}; install it, or set PYTHONPATH")
    origin = Path(spec.origin)
    return _hash(origin.parent, (".",) if origin.name == "__init__.py" else (origin.name,))


def _hash(root: Path, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        for file in sorted([root / name, *(root / name).rglob("*.py")]):
            if file.is_file():
                digest.update(f"{file.relative_to(root)}:{file.read_text()}".encode())
    return digest.hexdigest()[:12]
