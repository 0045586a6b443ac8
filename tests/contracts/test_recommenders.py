"""What every head and encoder promises inside a recommender: scores that agree, whoever asks and whatever with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from factorlm.config.build import cache_dir, make_data
from factorlm.config.compose import conf_dir
from factorlm.config.model import make_model
from factorlm.data.prepared import load_prepared, prepare
from factorlm.encoders.attention import Attention
from factorlm.evaluation.histories import train_contexts
from factorlm.models.recommender import PAIRS, Recommender
from factorlm.scoring import Contexts

Compose = Callable[..., DictConfig]
HEADS = [f"head={path.stem}" for path in sorted((conf_dir() / "head").glob("*.yaml"))]
ENCODERS = [f"encoder={path.stem}" for path in sorted((conf_dir() / "encoder").glob("*.yaml"))]
SIDE = ["fields=side", "fields.genres.column=tags", "fields.year.column=topic", "objective=sampled_softmax"]


def built(small: Compose, *overrides: str) -> tuple[Recommender, Contexts]:
    """A recommender whose weights matter, and the contexts of its training rows."""
    config = small(*SIDE, "model.num_factors=8", *overrides)
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    model = make_model(config, prepared)
    assert isinstance(model, Recommender)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval(), train_contexts(prepared)


@pytest.mark.parametrize("overrides", [*([head] for head in HEADS), *([encoder] for encoder in ENCODERS),
                                       ["head=deepfm", "encoder=attention"], ["head=ffm", "encoder=sasrec"],
                                       ["encoder=gru", "backbone=tiny"]], ids=" ".join)  # fmt: skip
@torch.no_grad()
def test_scores_agree(small: Compose, overrides: list[str]) -> None:
    model, rows = built(small, *overrides)
    contexts, items = rows[torch.arange(0, 900, 13)], torch.arange(20, 53)
    catalogue = model.catalogue(contexts, items)
    number, size = len(contexts), len(items)
    scores = catalogue.cross(torch.arange(number))
    places = torch.arange(number).repeat_interleave(size), torch.arange(size).repeat(number)
    pairs = catalogue.pairs(*places).view(number, size)
    alone = model.score(contexts[places[0]], items[places[1]]).view(number, size)
    together = model.cross_scores(model.user_side(contexts), model.item_side(items))
    for other in (pairs, alone, together):
        assert torch.allclose(scores, other, atol=1e-4, rtol=1e-4)
    some = torch.randperm(number)[:5]
    assert torch.equal(catalogue.cross(some), scores[some])
    few = torch.randperm(number * size)[:7]
    assert torch.equal(catalogue.pairs(places[0][few], places[1][few]), pairs.flatten()[few])


@pytest.mark.parametrize("override", ["encoder=attention", "head=deepfm"])
def test_gradients_of_pairs_scored_twice(small: Compose, override: str) -> None:
    """Pairs beyond `PAIRS` are scored again for their gradients."""
    model, rows = built(small, override)
    contexts, items = rows[torch.arange(0, 900, 13)], torch.arange(20, 53)
    places = torch.arange(len(contexts)).repeat_interleave(len(items)), torch.arange(len(items)).repeat(len(contexts))
    assert len(places[0]) > PAIRS
    weights = torch.randn(len(places[0]), generator=torch.Generator().manual_seed(0))
    gradients = []
    for scores in (
        model.cross_scores(model.user_side(contexts), model.item_side(items)).flatten(),
        model.score(contexts[places[0]], items[places[1]]),
    ):
        found = torch.autograd.grad((scores * weights).sum(), list(model.parameters()), allow_unused=True)
        gradients.append([None if one is None else one.to_dense() for one in found])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)


def test_attention_is_the_papers_network_of_four_inputs() -> None:
    encoder = Attention(8, max_history_len=5, hidden_size=6)
    items, lengths, target = torch.randn(7, 5, 8), torch.tensor([0, 1, 2, 3, 4, 5, 5]), torch.randn(7, 8)
    for row, length in enumerate(lengths):
        expected = torch.zeros(8)
        for item in items[row, :length]:
            seen = torch.cat([item, target[row], item - target[row], item * target[row] * 8**0.5]) * 8**0.5
            weight = encoder.second(encoder.activation(encoder.first(seen)))
            expected += weight * item / length
        assert torch.allclose(encoder(items, lengths, target)[row], expected, atol=1e-5)


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name not in ("encoder=none", "encoder=attention")])
def test_moments_of_a_history_share_a_pass(small: Compose, encoder: str) -> None:
    """Rows trained together see what each would see alone, and nothing later."""
    model, rows = built(small, encoder)
    some = rows[torch.arange(0, 300)]
    model.encoder.training = True  # but not its dropout
    shared = model.user_side(some).fields.factors
    model.encoder.training = False
    with torch.no_grad():
        alone = torch.cat([model.user_side(some[torch.tensor([row])]).fields.factors for row in range(300)])
    assert torch.allclose(shared, alone, atol=1e-5)


def test_long_histories_are_cut_into_windows(small: Compose) -> None:
    model, rows = built(small, "head=dot", "encoder=mean", "encoder.max_history_len=4")
    one = rows[(rows.users == rows.users[0]).nonzero().squeeze(1)]
    one = one[one.ends.argsort()]
    vectors = model._item_vectors(rows.log).detach()
    model.encoder.training = True
    history = model.user_side(one).fields.factors[:, -1]
    for row, (start, end) in enumerate(zip(one.starts.tolist(), one.ends.tolist(), strict=True)):
        begin = start + (end - start - 1) // 4 * 4 if end > start else end
        expected = vectors[begin:end].mean(0) if end > begin else torch.zeros(8)
        assert torch.allclose(history[row], expected, atol=1e-6)
    model.encoder.training = False
    with torch.no_grad():
        latest = model.user_side(one).fields.factors[-1, -1]
    assert torch.allclose(latest, vectors[one.ends[-1] - 4 : one.ends[-1]].mean(0), atol=1e-6)
