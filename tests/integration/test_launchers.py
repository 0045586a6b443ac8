"""Jobs of a multirun in other processes: the metrics of the basic launcher, and one line for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
RUN = ["-m", "dataset=synthetic", "trainer.max_epochs=2", "batch_size=256", "model.num_factors=8", "tracking=none"]
SIX = ["seed=1,2,3", "optimizer.lr=0.01,0.02"]


def train(cache: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "factorlm", "train", *RUN, f"cache={cache}", f"run.root={root}", *arguments],
        cwd=root.parent, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def metrics(root: Path) -> dict[str, Any]:
    records = [json.loads(path.read_text()) for path in root.glob("adhoc/*/record.json")]
    assert [record["status"] for record in records] == ["done"] * len(records)
    return {record["key"]: record["metrics"] for record in records}


@pytest.fixture(scope="module")
def expected(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("basic") / "runs"
    result = train(cache, root, *SIX)
    assert result.returncode == 0, result.stderr
    assert len(metrics(root)) == 6
    return metrics(root)


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A cluster of two nodes, each a set of processes that listen on the loopback."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        yield cluster.address
    finally:
        cluster.shutdown()
        del os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_the_same_metrics(launcher: str, expected: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    result = train(cache, tmp_path / "runs", *SIX, f"hydra/launcher={launcher}")
    assert result.returncode == 0, result.stderr
    assert metrics(tmp_path / "runs") == expected
    assert "deprecated" not in result.stderr


def test_the_same_metrics_on_two_nodes_of_ray(
    ray_address: str, expected: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    result = train(
        cache, tmp_path / "runs", *SIX, "hydra/launcher=ray", f"hydra.launcher.ray.init.address='{ray_address}'"
    )
    assert result.returncode == 0, result.stderr
    assert metrics(tmp_path / "runs") == expected


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_mistake_is_one_line(launcher: str, cache: Path, tmp_path: Path) -> None:
    result = train(cache, tmp_path / "runs", "optimizer.lr=0.01,1e30", f"hydra/launcher={launcher}")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "factorlm: 1 of 2 runs failed, first optimizer.lr=1e+30: the loss is" in result.stderr
    states = sorted(json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/adhoc/*/record.json"))
    assert states == ["done", "failed"]


def test_trials_of_optuna_in_batches(cache: Path, tmp_path: Path) -> None:
    result = train(
        cache, tmp_path / "runs", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2",
        "optimizer.lr=1e30,0.01,0.02", "hydra.sweeper.sampler=grid", "hydra.sweeper.prune=true",
        "hydra/launcher=joblib",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("runs/adhoc/run-sweep-*/sweep.json")
    found = json.loads(path.read_text())["trials"]
    assert [trial["state"] for trial in found] == ["failed", "complete", "complete"]
    assert "the loss is" in found[0]["error"]


def test_a_missing_extra_is_named(cache: Path, tmp_path: Path) -> None:
    """As if the plugin of joblib were not installed."""
    code = (
        "import sys; sys.modules['hydra_plugins.hydra_joblib_launcher'] = None\n"
        "import hydra.core.plugins as plugins, factorlm.cli\n"
        "found = plugins.Plugins._scan_all_plugins\n"
        "def without(modules):\n"
        "    classes, stats = found(modules)\n"
        "    return [one for one in classes if 'Joblib' not in one.__name__], stats\n"
        "plugins.Plugins._scan_all_plugins = staticmethod(without)\n"
        "factorlm.cli.main(sys.argv[1:])\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "train", *RUN, "seed=1,2", "hydra/launcher=joblib"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "hydra/launcher=joblib needs more packages: pip install 'factorlm[launchers]'" in result.stderr
