"""Check a composed config against the real signatures before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from factorlm.config.schema import ModelConfig, RunConfig, TrainConfig, TrialConfig
from factorlm.data.fields import FieldSpec
from factorlm.errors import UserError

ALLOWED = ("factorlm.", "torch.optim.", "pytorch_lightning.")
SPECIAL = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def check_config(config: DictConfig, groups: Sequence[str] | None = None) -> None:
    """Import every target of a composed train config and bind its arguments.

    Args:
        config: composed.
        groups: whose targets to import, where the others are not needed; None: all.

    Raises:
        UserError: a value is missing, a target is not allowed or does not exist, or an argument does not fit its
            signature; the message names the config key and the nearest argument.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} has no value: set {missing[0]}=...")
    try:
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    assert isinstance(content, dict)
    _refuse_unknown(content, TrainConfig, "")
    _refuse_unknown(content["model"], ModelConfig, "model.")
    _refuse_unknown(content["run"], RunConfig, "run.")
    _refuse_unknown(content.get("trial", {}), TrialConfig, "trial.")
    for name in ("batch_size", "eval_batch_size", "top", "threads", "patience"):
        if content[name] < 1:
            raise UserError(f"{name}={content[name]}: it must be 1 or more")
    if content["model"]["num_factors"] < 1 or content["seed"] < 0:
        raise UserError("model.num_factors must be 1 or more, and seed 0 or more")
    for name in ("init_std", "factor_l2"):
        if content["model"][name] < 0:
            raise UserError(f"model.{name}={content['model'][name]}: it must be 0 or more")
    allowed = (*ALLOWED, *(f"{plugin}." for plugin in content.get("plugins", [])))
    for key, node in _targets(content, ""):
        if groups is None or str(key).partition(".")[0] in groups:
            _check_target(str(key), node, allowed)
    for name, spec in content["fields"].items():
        if (spec or {}).get("kind") == "prompt":
            continue  # see `factorlm.config.model.prompt_field`
        _bind(f"fields.{name}", FieldSpec, spec or {}, partial=False)


def _refuse_unknown(content: Mapping[Any, Any], schema: type, prefix: str) -> None:
    known = [field.name for field in fields(schema)]
    for name in content:
        if name not in known:
            near = get_close_matches(str(name), known, n=1, cutoff=0.5)
            raise UserError(f"{prefix}{name}: no such key{f'; did you mean {prefix}{near[0]}?' if near else ''}")


def _targets(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from _targets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{key}[{index}]")


def _check_target(key: str, node: dict[str, Any], allowed: Sequence[str]) -> None:
    target = str(node["_target_"])
    if not target.startswith(tuple(allowed)):
        raise UserError(
            f"{key}._target_={target} is outside {', '.join(allowed)}; to trust a package of your own, "
            f"name it: plugins=[{target.split('.')[0]}]"
        )
    module, _, attribute = target.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}._target_={target} cannot be imported: {error}") from error
    _bind(
        key,
        found,
        {name: value for name, value in node.items() if name not in SPECIAL},
        bool(node.get("_partial_")),
    )


def _bind(key: str, target: Any, arguments: dict[str, Any], partial: bool) -> None:
    parameters = inspect.signature(target).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in arguments:
        if name not in parameters and not anything:
            near = get_close_matches(name, parameters, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(parameters) or 'no arguments'}"
            raise UserError(f"{key}.{name}: {target.__name__} takes no such argument{hint}")
    if partial:
        return
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and name not in arguments:
            raise UserError(f"{key}.{name} is missing: {target.__name__} needs it")
