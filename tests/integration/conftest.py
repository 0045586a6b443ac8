"""A headless browser, and made-up finished runs for what reads a store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import sync_playwright

from factorlm.runs.identity import digest

WIDTHS = (1440, 390)
PROTOCOL = {
    "data": "aa",
    "split": "bb",
    "rows": {"train": 10, "valid": 2, "test": 3},
    "candidates": "items of training: all",
    "exclusion": "test: train",
    "metrics": ["ndcg@10", "hit@10"],
    "selection": "max valid/ndcg@10",
}


@dataclass
class Tab:
    """A page in the browser and what must not happen in it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def overflows(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no chromium on this machine")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any) -> Iterator[Callable[[int], Tab]]:
    """Open an empty page of a width; console errors, uncaught errors and requests are noted."""
    contexts = []

    def opened(width: int) -> Tab:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}))
        own = Tab(contexts[-1].new_page())
        own.page.on("console", lambda message: own.errors.append(message.text) if message.type == "error" else None)
        own.page.on("pageerror", lambda error: own.errors.append(str(error)))
        own.page.on("request", lambda request: own.requests.append(request.url))
        return own

    yield opened
    for context in contexts:
        context.close()


def made_run(root: Path, protocol: str, arm: str, seed: int, gain: float, users: int = 400, **record: object) -> Path:
    """Write a finished run of the study demo as `factorlm train` would, with a history and values around a mean."""
    folder = root / "demo" / protocol / f"{arm}-seed{seed}"
    folder.mkdir(parents=True)
    own, noise = np.random.default_rng(0), np.random.default_rng(seed)
    base = own.beta(2, 5, users)
    values = np.clip(base + gain * own.random(users) + 0.02 * noise.normal(size=users), 0, 1)
    table = pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in range(users)],
            "train_interactions": own.integers(1, 80, users),
            "ndcg@10": values,
            "hit@10": (values > 0.3).astype(float),
            "ndcg@10/cold": np.where(own.random(users) < 0.5, values, np.nan),
        }
    )
    table.write_parquet(folder / "per_user.parquet")
    means = {name: float(np.nanmean(table[name].to_numpy())) for name in table.columns[2:]}
    content = {
        "schema": 1, "status": "done", "key": digest([protocol, arm, seed]), "study": f"demo/{protocol}", "arm": arm,
        "seed": seed, "started": f"2026-01-0{1 + seed}T00:00:00+00:00", "protocol": PROTOCOL,
        "fingerprint": digest(PROTOCOL), "metrics": {f"test/{name}": mean for name, mean in means.items()},
        "parameters": {"trainable": 100}, "seconds": {"train": 2.0 + 50 * gain, "total": 4.0}, "ms_per_user": 0.1,
        "peak_memory_mb": 300, "test_evaluations": 1,
        "split": {"dropped": {"test": {"cold_user": 7}}},
        "history": [
            {"epoch": epoch, "step": 10 * epoch, "train/loss": 1 / (1 + epoch), "valid/ndcg@10": 0.1 * epoch}
            for epoch in range(4)
        ],
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(content | record))
    (folder / "config.yaml").write_text(f"arm: {arm}\nhead: {arm}\n")
    return folder
