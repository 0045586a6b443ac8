"""Environments of the libraries that benchmarks compare with, made when they are asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PINS = {
    "recbole": [
        "recbole==1.2.1", "torch==2.13.0", "numpy==2.4.6", "pandas==3.1.1", "scipy==1.17.1", "scikit-learn==1.9.1",
        "ray==2.6.3", "setuptools<70",
    ],
    "fuxictr": [
        "fuxictr==2.3.10", "torch==2.13.0", "numpy==2.4.6", "pandas==3.1.1", "scikit-learn==1.9.1", "ray==2.60.0",
    ],
}  # fmt: skip


def environment(folder: Path, name: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there (1 GB, minutes)."""
    python = folder.resolve() / name / "bin" / "python"
    if not python.exists():
        print(f"making {folder / name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS[name]]
        if subprocess.run(install).returncode:
            shutil.rmtree(folder / name)
            raise SystemExit(f"{name} cannot be installed; pip's reason is above")
    return python


def allow_recbole() -> None:
    """Give RecBole 1.2.1 and its ray the names that NumPy 2 dropped; call it before they are imported."""
    import numpy as np

    for old, new in (("bool8", np.bool_), ("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        setattr(np, old, new)
