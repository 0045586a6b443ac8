"""Find and compose configs; turn Hydra's complaints into one line with the nearest key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import factorlm
from factorlm.config.schema import register
from factorlm.errors import UserError


def conf_dir() -> Path:
    """The folder of config files: of the checkout, or the one packed into an installed wheel."""
    package = Path(factorlm.__file__).parent
    checkout = package.parents[1] / "conf"
    return checkout if (checkout / "train.yaml").exists() else package / "conf"


def compose_config(name: str, overrides: Sequence[str], search: Sequence[str] = ()) -> DictConfig:
    """Compose a command's config.

    Args:
        name: ``train``, ``compare``, ...
        overrides: in Hydra's grammar.
        search: further config folders, as ``--config-dir`` gives one.

    Raises:
        UserError: an override is wrong; the message names the nearest key.
    """
    register()
    extra = [f"hydra.searchpath=[{','.join(f'file://{Path(path).resolve()}' for path in search)}]"] if search else []
    with _explained(name), _fresh_hydra(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, [*overrides, *extra])


@contextmanager
def _fresh_hydra() -> Iterator[None]:
    """Compose inside a running Hydra application without disturbing it."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = outer


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException, ConfigCompositionException) as error:
        raise UserError(explain(error, name)) from error


def explain(error: Exception, name: str) -> str:
    """One line for a composition error of command ``name``, with the nearest key or option."""
    text = " ".join(str(error).split())
    if error.__cause__ is not None:
        text = f"{text} {' '.join(str(error.__cause__).split())}".strip()
    key = re.search(r"Key '([\w.@/]+)' is not in struct|Key '([\w.@/]+)' not in", text)
    override = re.search(r"Could not override '([\w.@/]+)'", text)
    option = re.search(r"Could not find '([\w\-./]+)/([\w\-.]+)'", text)
    group = re.search(r"Could not override '([\w/]+)'\.?\s*No match in the defaults list", text)
    if option:
        options = sorted(path.stem for path in (conf_dir() / option[1]).glob("*.yaml"))
        return f"{option[1]}={option[2]}: no such option{_nearest(option[2], options)}; there are {', '.join(options)}"
    if group or override or key:
        wrong = (override or group or key)[1]  # type: ignore[index]
        add = f"; +{wrong}=... adds an argument that the file does not list" if "." in wrong else ""
        return f"{wrong}: no such key{_nearest(wrong, _keys(name))}{add}"
    return text[:300]


def _nearest(wrong: str, known: Sequence[str]) -> str:
    near = [key for key in get_close_matches(wrong, known, n=2, cutoff=0.5) if key != wrong]
    return f"; did you mean {near[0]!r}?" if near else ""


def _keys(name: str) -> list[str]:
    """Every key an override of the command can name."""
    register()
    with _fresh_hydra(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(name)
    keys: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                keys.append(f"{prefix}{key}")
                walk(value, f"{prefix}{key}.")

    walk(OmegaConf.to_container(config, resolve=False), "")
    return keys
