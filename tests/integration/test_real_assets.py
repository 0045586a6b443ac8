"""The default models and data, where they are cached already; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from factorlm import assets
from factorlm.backbones.adapter import Lora
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.compose import compose_config
from factorlm.data.prepared import prepare
from factorlm.errors import UserError


@pytest.fixture
def cached_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, mirror: assets.Mirror, folder: Path) -> None:
        raise UserError("not cached")

    for scheme in ("pypi", "https", "hf"):
        monkeypatch.setitem(assets.FETCHERS, scheme, refuse)


def or_skip(make_it: Callable[[], object]) -> object:
    try:
        return make_it()
    except UserError as error:
        pytest.skip(str(error)[:60])


@pytest.mark.usefixtures("cached_only")
def test_ml100k_user_time_has_the_published_rows(tmp_path: Path) -> None:
    config = compose_config("train", [])
    source, rule = make_data(config)
    frames = or_skip(lambda: source.load(cache_dir(config)))

    class Loaded:
        identity = source.identity

        def load(self, cache: Path) -> object:
            return frames

    _, meta = prepare(Loaded(), rule, tmp_path)  # type: ignore[arg-type]
    assert meta["split"]["rows"] == {"train": 43929, "valid": 5454, "test": 5848}
    assert meta["split"]["users"]["test"] == 942
    assert meta["data_fingerprint"] == "f6cbc84369976097"


@pytest.mark.usefixtures("cached_only")
@pytest.mark.parametrize(("name", "hidden"), [("minilm", 384), ("smollm2_135m", 576)])
def test_backbones_resume_to_the_bit(name: str, hidden: int) -> None:
    config = compose_config("train", [f"backbone={name}", "adapter=lora"])
    encoder = or_skip(lambda: make(config.backbone).load(cache_dir(config)))
    tokens = encoder.tokenize(["Toy Story (1995)", "GoldenEye (1995)", "Heat"])  # type: ignore[attr-defined]
    full = encoder(tokens)  # type: ignore[operator]
    assert full.shape == (3, hidden)
    lora: Lora = make(config.adapter)
    layer = lora.first_layer(encoder)  # type: ignore[arg-type]
    states = encoder.hidden_states(tokens, layer)  # type: ignore[attr-defined]
    lora.attach(encoder)  # type: ignore[arg-type]
    assert torch.equal(encoder(tokens, states, layer), full)  # type: ignore[operator]
