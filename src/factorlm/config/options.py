"""Which option of a group, such as ``head=deepfm``, a part of a config came from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from factorlm.config.compose import conf_dir


@cache
def options(group: str) -> dict[str, Any]:
    """Content of each option of a group by name; empty where there is no such group."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((conf_dir() / group).glob("*.yaml"))}


def option_of(group: str, part: Any) -> str | None:
    """The option that a part of a config is, but for the arguments that were set.

    That is the option of the same class with the fewest other values; without a class, as under ``fields``, the one
    with the same names. None where there is none.

    >>> option_of("head", {"_target_": "factorlm.heads.fm.FM", "_partial_": True}), option_of("backbone", None)
    ('fm', 'none')
    """
    if part is None:
        return "none" if "none" in options(group) else None
    values = dict(leaves(part))
    near = {
        name: len(values.items() ^ dict(leaves(content)).items())
        for name, content in options(group).items()
        if isinstance(content, dict) and isinstance(part, dict) and _same_kind(content, part)
    }
    return min(near, key=lambda name: near[name], default=None)


def _same_kind(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.get("_target_") == two.get("_target_") and ("_target_" in one or one.keys() == two.keys())


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a config by its dotted key; a list of plain values is one.

    >>> dict(leaves({"head": {"widths": [64, 32]}, "seed": 1}))
    {'head.widths': '[64, 32]', 'seed': 1}
    """
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from leaves(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        yield from leaves(dict(enumerate(value)), name)
    else:
        yield name, str(value) if isinstance(value, (list, dict)) else value
