"""Shared by all tests: one thread, no network for models, a cache of its own, and small configs."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from factorlm.config.compose import compose_config

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the session, so that prepared data and embeddings are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(cache: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose a train config on synthetic data that runs in a second."""

    def compose(*overrides: str) -> DictConfig:
        return compose_config(
            "train",
            [
                "dataset=synthetic", "tracking=none", "trainer.max_epochs=3", "batch_size=256", "model.num_factors=8",
                f"cache={cache}", f"run.root={tmp_path / 'runs'}", *overrides,
            ],
        )  # fmt: skip

    return compose


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many generated cases agreed with which oracle."""
    passed = terminalreporter.stats.get("passed", [])
    lines = [value for report in passed for name, value in report.user_properties if name == "agreement"]
    total = sum(int(line.split()[0].replace(",", "")) for line in lines)
    if lines:
        terminalreporter.write_sep("-", f"{total:,} generated cases, no disagreement")
        for line in lines:
            terminalreporter.write_line(line)
