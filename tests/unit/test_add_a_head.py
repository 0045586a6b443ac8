"""docs/add-a-head.md, done word for word by a stranger in a folder of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

DOC = Path(__file__).parents[2] / "docs" / "add-a-head.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_example_trains_and_ranks(tmp_path: Path) -> None:
    text = DOC.read_text()
    blocks = dict(BLOCK.findall(text))
    assert len(blocks) == len(BLOCK.findall(text)) == 3
    (tmp_path / "my_heads.py").write_text(blocks["python"])
    (tmp_path / "conf" / "head").mkdir(parents=True)
    (tmp_path / "conf" / "head" / "distance.yaml").write_text(blocks["yaml"])
    for name in ("my_heads.py", "conf/head/distance.yaml"):
        assert f"`{name}`" in text
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FACTORLM_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        ["bash", "-ec", blocks["shell"]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / done.stdout.splitlines()[-1]
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "done"
    assert 0 < record["metrics"]["test/ndcg@10"] <= 1
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["head"] == {"_target_": "my_heads.Distance", "_partial_": True, "scale": 0.5}
