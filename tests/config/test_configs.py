"""Every config file composes and binds to its class; mistakes are one line with the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from factorlm.commands.check import option_overrides, study_overrides
from factorlm.config.check import check_config
from factorlm.config.compose import compose_config, conf_dir
from factorlm.errors import UserError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("overrides", option_overrides(conf_dir()) + study_overrides(EXPERIMENTS), ids=" ".join)
def test_every_option_and_arm(overrides: list[str]) -> None:
    check_config(compose_config("train", overrides))


def test_every_file_is_an_option() -> None:
    """No file under conf is out of reach of the check."""
    options = {override.partition("=")[0] for overrides in option_overrides(conf_dir()) for override in overrides[:1]}
    assert options == {path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"}


MISTAKES = {
    "sed=3": "sed: no such key; did you mean 'seed'?",
    "model.num_factor=3": "did you mean 'model.num_factors'?",
    "dataset=ml100": "dataset=ml100: no such option; did you mean 'ml100k'?; there are collm_ml1m, files, ml100k",
    "optimizer.betas=[0.9,0.9]": "+optimizer.betas=... adds an argument",
    "optimizer.lrr=1": "did you mean 'optimizer.lr'?",
    "seed=abc": "seed=abc",
    "+foo=1": "foo: no such key",
    "+model.depth=1": "model.depth: no such key",
    "+head.depth=1": "head.depth: FM takes no such argument",
    "head._target_=os.system": "head._target_=os.system is outside factorlm.",
    "head._target_=factorlm.heads.fm.FFM": "cannot be imported",
    "dataset=files": "dataset.interactions has no value",
    "fields.item.sid=user": "fields.item.sid",
    "~split.valid": "split.valid is missing: UserTime needs it",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistakes(override: str) -> None:
    with pytest.raises(UserError) as caught:
        check_config(compose_config("train", [override]))
    assert MISTAKES[override] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plugins_widen_the_allow_list() -> None:
    overrides = ["head._target_=fractions.Fraction"]
    with pytest.raises(UserError, match=r"plugins=\[fractions\]"):
        check_config(compose_config("train", overrides))
    check_config(compose_config("train", [*overrides, "plugins=[fractions]"]))
