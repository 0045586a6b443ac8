"""Components of a config: the only call of `hydra.utils.instantiate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from factorlm.data.rules import SplitRule
from factorlm.data.sources.base import Source
from factorlm.errors import UserError


def cache_dir(config: DictConfig) -> Path:
    """The root of the cache."""
    return Path(config.cache).expanduser()


def make(node: DictConfig) -> Any:
    """Instantiate one component.

    Raises:
        UserError: its constructor refused a value.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def make_data(config: DictConfig) -> tuple[Source, SplitRule]:
    """The source and the split rule."""
    return make(config.dataset), make(config.split)
