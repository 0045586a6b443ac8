"""``factorlm check``: every config file, or one composition, against the real signatures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from factorlm.comparison.study import load_study, train_overrides
from factorlm.config.check import check_config
from factorlm.config.compose import compose_config, conf_dir
from factorlm.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

FILLED = {
    "dataset=files": ["dataset.interactions=interactions.csv"],
    "split=fixed": ["split.valid=valid.csv", "split.test=test.csv"],
    "candidates=listed": ["candidates.path=candidates.csv"],
    "backbone=folder": ["backbone.mirrors.0.url=file:///model"],
    "backbone=hub": ["backbone.repo=owner/name", f"backbone.revision={'0' * 40}"],
    **{f"adapter={name}": ["backbone=tiny"] for name in ("lora", "rslora", "dora", "ia3")},
}


def main(config: DictConfig) -> None:
    """Check the composition at hand; without overrides also every option of every group and every study."""
    check_config(config)
    checked = 1
    if not HydraConfig.get().overrides.task:
        for command in ("evaluate", "compare", "power", "score", "audit", "runs", "reproduce", "export"):
            compose_config(command, [])
        for overrides in (*option_overrides(conf_dir()), *study_overrides(Path("experiments"))):
            try:
                check_config(compose_config("train", overrides))
            except UserError as error:
                raise UserError(f"{' '.join(overrides)}: {error}") from error
            checked += 1
    print(f"{checked} compositions are valid")


def option_overrides(conf: Path) -> list[list[str]]:
    """Overrides that choose each option of each group once."""
    found = []
    for group in sorted(path for path in conf.iterdir() if path.is_dir() and path.name != "hydra"):
        for path in sorted(group.rglob("*.yaml")):
            choice = f"{group.name}={path.relative_to(group).with_suffix('')}"
            found.append([choice, *FILLED.get(choice, [])])
    return found


def study_overrides(root: Path) -> list[list[str]]:
    """Overrides of each arm under each protocol of each study below ``root``."""
    found = []
    for path in sorted(root.glob("*/study.yaml")):
        study = load_study(path.parent.parent, path.parent.name)
        found += [train_overrides(study, protocol, arm) for protocol in study.protocols for arm in study.arms]
    return found
