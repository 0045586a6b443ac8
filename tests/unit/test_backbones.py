from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from factorlm.backbones import store
from factorlm.backbones.adapter import Lora
from factorlm.backbones.encoder import TextEncoder, length_batches
from factorlm.backbones.store import embeddings, hidden_states
from factorlm.backbones.tiny import TinyBackbone
from factorlm.errors import UserError
from factorlm.models.fields import AdaptedVectors

TINY = TinyBackbone(name="tiny", num_layers=4, hidden_size=16, seed=0, pooling="mean", max_seq_len=64)
TEXTS = ["Toy Story (1995)", "Up", "", "A very long title " * 10, "Heat (1995)"]


def encoder(pooling: str = "mean", architecture: str = "llama") -> TextEncoder:
    tiny = TINY.load(Path())
    torch.manual_seed(0)
    if architecture == "bert":
        model = BertModel(
            BertConfig(vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2)
        )
    elif architecture == "gpt2":
        model = GPT2Model(GPT2Config(vocab_size=300, n_embd=16, n_layer=4, n_head=2))
    else:
        model = tiny.model
    return TextEncoder(model, tiny._tokenizer, pooling, 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["llama", "bert", "gpt2"])
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_resuming_from_stored_states_equals_the_full_pass_to_the_bit(pooling: str, architecture: str) -> None:
    model = encoder(pooling, architecture)
    tokens = model.tokenize(TEXTS)
    full = model(tokens)
    assert full.shape == (len(TEXTS), 16)
    for layer in range(4):
        assert torch.equal(model(tokens, model.hidden_states(tokens, layer), layer), full)
    assert torch.equal(model(tokens), full)  # the layers are back in place


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_padding_does_not_matter(pooling: str) -> None:
    model = encoder(pooling)
    tokens = model.tokenize(TEXTS)
    alone = torch.cat([model([one]) for one in tokens])
    assert torch.allclose(model(tokens), alone, atol=1e-5)


def test_pooling_by_hand() -> None:
    tokens = encoder().tokenize(["abc"])
    states = encoder().model(torch.tensor(tokens)).last_hidden_state[0]
    assert torch.allclose(encoder("mean")(tokens)[0], states.mean(0))
    assert torch.allclose(encoder("last")(tokens)[0], states[-1])
    assert torch.allclose(encoder("cls")(tokens)[0], states[0])
    with pytest.raises(UserError, match="must be last, mean or cls"):
        encoder("max")


def test_length_batches_cover_every_text_once() -> None:
    tokens = [[0] * (1 + i * 7 % 30) for i in range(50)]
    batches = list(length_batches(tokens, max_tokens=100))
    assert sorted(i for batch in batches for i in batch) == list(range(50))
    assert all(len(batch) * max(len(tokens[i]) for i in batch) <= 100 for batch in batches)


def test_embeddings_are_computed_once_and_continue_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text number {i} " * (i % 5) for i in range(200)]
    monkeypatch.setattr(store, "length_batches", lambda tokens: length_batches(tokens, max_tokens=256))
    forward, calls = TextEncoder.forward, []

    def counted(self: TextEncoder, *args: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return forward(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TextEncoder, "forward", counted)
    with pytest.raises(KeyboardInterrupt):
        embeddings(TINY, texts, tmp_path)
    first = embeddings(TINY, texts, tmp_path)
    batches = len(list(length_batches(TINY.load(tmp_path).tokenize(texts), max_tokens=256)))
    assert len(calls) == batches + 1  # only the batch that crashed was repeated
    assert torch.equal(embeddings(TINY, texts, tmp_path), first)
    assert len(calls) == batches + 1
    assert torch.equal(embeddings(TINY, texts, tmp_path / "fresh"), first)


def adapted(tmp_path: Path, num_layers: int = 2) -> AdaptedVectors:
    model = TINY.load(tmp_path)
    lora = Lora(rank=2, alpha=4, num_layers=num_layers, targets=["q_proj", "v_proj"])
    layer = lora.first_layer(model)
    tokens, states, offsets = hidden_states(TINY, model, TEXTS, layer, tmp_path)
    lora.attach(model)
    return AdaptedVectors(model, tokens, states, offsets, layer, batch_texts=2)


def test_a_fresh_adapter_changes_nothing_and_only_it_trains(tmp_path: Path) -> None:
    vectors = adapted(tmp_path)
    frozen = embeddings(TINY, TEXTS, tmp_path)
    assert torch.allclose(vectors(torch.arange(5)), frozen, atol=1e-5)
    names = [name for name, value in vectors.named_parameters() if value.requires_grad]
    assert names
    assert all(".lora_" in name and (".layers.2." in name or ".layers.3." in name) for name in names)
    vectors(torch.arange(5)).square().sum().backward()
    assert all(value.grad is not None for value in vectors.parameters() if value.requires_grad)
    assert all(value.grad is None for value in vectors.parameters() if not value.requires_grad)


def test_fifty_steps_from_stored_states_lose_as_much_as_full_ones(tmp_path: Path) -> None:
    losses: list[list[float]] = []
    for resumed in (True, False):
        torch.manual_seed(0)
        vectors = adapted(tmp_path)
        optimizer = torch.optim.AdamW([value for value in vectors.parameters() if value.requires_grad], 0.01)
        tokens = vectors.encoder.tokenize(TEXTS)
        target = torch.randn(5, 16)
        losses.append([])
        for _ in range(50):
            found = vectors(torch.arange(5)) if resumed else vectors.encoder(tokens)
            loss = (found - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0] - 0.1


def test_batches_by_length_give_what_one_pass_gives(tmp_path: Path) -> None:
    vectors = adapted(tmp_path)
    for value in vectors.parameters():
        if value.requires_grad:
            torch.nn.init.normal_(value, std=0.1)
    chosen = torch.tensor([4, 0, 3])
    tokens = vectors.encoder.tokenize([TEXTS[i] for i in chosen])
    assert torch.allclose(vectors(chosen), vectors.encoder(tokens), atol=1e-5)
    assert vectors(chosen[:0]).shape == (0, 16)


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = TINY.load(tmp_path)
    with pytest.raises(
        UserError, match=r"\['query'\]: no such name among the linear maps of this backbone, which are down_"
    ):
        Lora(rank=2, alpha=4, num_layers=1, targets=["q_proj", "query"]).attach(model)
    with pytest.raises(UserError, match="this backbone has 4 layers"):
        Lora(rank=2, alpha=4, num_layers=5, targets=["q_proj"]).first_layer(model)
    lora = Lora(rank=2, alpha=4, num_layers=1, targets=None)
    lora.attach(model)
    with pytest.raises(RuntimeError, match="carries an adapter already"):
        lora.attach(model)
