"""Every adapter on the architecture of every backbone, shrunk, with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel, BertConfig, GPT2Config, LlamaConfig, PretrainedConfig, Qwen3Config, T5Config

from factorlm.backbones.adapter import Adapter, adapter_names, merge
from factorlm.backbones.backbone import Backbone
from factorlm.backbones.encoder import TextEncoder
from factorlm.backbones.tiny import TinyBackbone
from factorlm.config.build import make
from factorlm.config.compose import compose_config, conf_dir
from factorlm.errors import UserError
from factorlm.training.checkpoint import load_checkpoint, save_checkpoint

SIZE = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA, QWEN3, BERT, T5, GPT2 = (
    LlamaConfig(**SIZE, **TOKENS, num_key_value_heads=2),
    Qwen3Config(**SIZE, **TOKENS, num_key_value_heads=2, head_dim=16),
    BertConfig(**SIZE),
    T5Config(vocab_size=257, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, feed_forward_proj="gated-gelu"),
    GPT2Config(vocab_size=257, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0),
)
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "minilm": BERT, "bge_small": BERT, "e5_small": BERT,
    "smollm2_135m": LLAMA, "smollm2_360m": LLAMA, "smollm2_1_7b": LLAMA, "llama_3_2_1b": LLAMA,
    "qwen3_0_6b": QWEN3, "qwen3_1_7b": QWEN3, "qwen3_4b": QWEN3,
    "flan_t5_small": T5, "hub": GPT2,
}  # fmt: skip
ADAPTERS = sorted(path.stem for path in (conf_dir() / "adapter").glob("*.yaml") if path.stem != "none")
TEXTS = ["Toy Story (1995)", "Up", "", "A very long title " * 3, "Heat (1995)"]
LAYER = 1  # the first adapted
tiny = TinyBackbone(name="tiny", num_layers=3, hidden_size=32, seed=0, pooling="mean", max_seq_len=64).load(Path())


def test_every_backbone_has_its_architecture_here() -> None:
    assert {path.stem for path in (conf_dir() / "backbone").glob("*.yaml")} == {
        *ARCHITECTURES,
        "folder",
        "none",
        "tiny",
    }


def test_frozen_weights_are_mapped_from_the_file(tmp_path: Path) -> None:
    """So they are in memory once, however many runs train adapters on the model."""
    encoder = saved(tmp_path, "smollm2_135m").load(tmp_path)
    adapter("lora").attach(encoder)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    pages = [[int(end, 16) for end in line[0].split("-")] for line in maps if line[-1].endswith("model.safetensors")]
    frozen = [value for value in encoder.parameters() if not value.requires_grad]
    assert len(frozen) > 20
    assert all(any(start <= value.data_ptr() < end for start, end in pages) for value in frozen)


def adapter(name: str) -> Adapter:
    made: Adapter = make(compose_config("train", ["backbone=tiny", f"adapter={name}", "adapter.num_layers=2"]).adapter)
    return made


def saved(tmp_path: Path, name: str) -> Backbone:
    """The backbone of a config, but for its files: a folder of random weights of the same architecture."""
    torch.manual_seed(0)
    AutoModel.from_config(ARCHITECTURES[name]).save_pretrained(tmp_path / "model")
    tiny._tokenizer.save_pretrained(tmp_path / "model")
    fixed = ["backbone.repo=owner/name", f"backbone.revision={'0' * 40}"] if name == "hub" else []
    config = compose_config("train", [f"backbone={name}", *fixed]).backbone
    folder = compose_config(
        "train", ["backbone=folder", f"backbone.mirrors.0.url=file://{tmp_path / 'model'}"]
    ).backbone
    folder.update({key: config[key] for key in ("dtype", "attn_implementation", "pooling", "max_seq_len")})
    made: Backbone = make(folder)
    return made


def trained(encoder: TextEncoder, seed: int = 1) -> None:
    """Move the adapter's weights from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in adapter_names(encoder):
            value = encoder.get_parameter(name)
            value += 0.1 * torch.randn(value.shape, generator=generator)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_adapters_on_every_backbone(tmp_path: Path, name: str) -> None:
    backbone = saved(tmp_path, name)
    for kind in ADAPTERS:
        encoder = backbone.load(tmp_path)
        tokens = encoder.tokenize(TEXTS)
        full = encoder(tokens)
        assert full.shape == (len(TEXTS), 32)
        for layer in range(encoder.num_layers):
            assert torch.equal(encoder(tokens, encoder.hidden_states(tokens, layer), layer), full)
        states = encoder.hidden_states(tokens, LAYER)
        adapter(kind).attach(encoder)
        assert torch.allclose(encoder(tokens, states, LAYER), full, atol=1e-6), kind  # untrained, it changes nothing
        names = [name for name, value in encoder.named_parameters() if value.requires_grad]
        assert sorted(adapter_names(encoder)) == sorted(names)
        encoder(tokens, states, LAYER).square().sum().backward()
        assert all(encoder.get_parameter(name).grad is not None for name in names), kind
        trained(encoder)
        adapted = encoder(tokens, states, LAYER)
        assert torch.equal(encoder(tokens), adapted)
        assert not torch.allclose(adapted, full, atol=1e-3), kind
        merge(encoder)
        assert adapter_names(encoder) == []
        assert torch.allclose(encoder(tokens), adapted, atol=1e-5), kind


@pytest.mark.parametrize(("quantization", "bits"), [("8bit", 8), ("4bit", 4)])
@pytest.mark.parametrize("name", ["llama_3_2_1b", "minilm"])
def test_quantized_backbones_are_smaller_and_take_an_adapter(
    tmp_path: Path, name: str, quantization: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}  # bitsandbytes takes blocks of 64 weights
    monkeypatch.setitem(ARCHITECTURES, name, type(ARCHITECTURES[name])(**{**ARCHITECTURES[name].to_dict(), **wide}))
    exact = saved(tmp_path, name)
    backbone = replace(exact, quantization=quantization)
    assert backbone.identity() != exact.identity()
    encoder, whole = backbone.load(tmp_path), exact.load(tmp_path)
    maps = [part.weight for part in encoder.layers.modules() if isinstance(part, nn.Linear)]
    own = [part.weight for part in whole.layers.modules() if isinstance(part, nn.Linear)]
    assert [value.numel() * value.element_size() * 8 for value in maps] == [bits * value.numel() for value in own]
    tokens = encoder.tokenize(TEXTS)
    full = encoder(tokens)
    assert full.dtype == torch.float32
    alike = nn.functional.cosine_similarity(full - full.mean(0), (others := whole(tokens)) - others.mean(0))
    assert alike.min() > (0.99 if bits == 8 else 0.8)
    states = encoder.hidden_states(tokens, LAYER)
    adapter("lora").attach(encoder)
    trained(encoder)
    adapted = encoder(tokens, states, LAYER)
    adapted.square().sum().backward()
    assert not torch.allclose(adapted, full, atol=1e-3)
    parts = [encoder.get_parameter(part) for part in adapter_names(encoder)]
    assert {part.dtype for part in parts} == {torch.float32}
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in parts)


def test_a_prefix_stands_before_each_text(tmp_path: Path) -> None:
    plain = saved(tmp_path, "e5_small")
    backbone = replace(plain, prefix=make(compose_config("train", ["backbone=e5_small"]).backbone).prefix)
    assert backbone.prefix == "query: "
    assert backbone.identity() != plain.identity()
    encoder, other = backbone.load(tmp_path), plain.load(tmp_path)
    assert encoder.tokenize(["Up"]) == other.tokenize(["query: Up"])


def test_quantization_without_its_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = replace(saved(tmp_path, "minilm"), quantization="8bit")
    monkeypatch.setattr("factorlm.backbones.backbone.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"quantization=8bit needs bitsandbytes: pip install 'factorlm\[quantization\]'"
    ):
        backbone.load(tmp_path)
    with pytest.raises(UserError, match=r"backbone.quantization=2bit: it must be 8bit, 4bit or null"):
        replace(backbone, quantization="2bit")
    with pytest.raises(UserError, match=r"prompt: backbone.quantization=8bit: a prompt scorer is float32"):
        backbone.load_causal(tmp_path)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("name", ["llama_3_2_1b", "minilm", "flan_t5_small", "hub"])
def test_bfloat16_backbones_have_float32_adapters_and_vectors(tmp_path: Path, name: str, kind: str) -> None:
    exact = saved(tmp_path, name)
    backbone = Backbone(exact.name, exact.mirrors, "bfloat16", "eager", None, exact.pooling, "", exact.max_seq_len)
    assert backbone.identity() != exact.identity()
    encoder = backbone.load(tmp_path)
    tokens = encoder.tokenize(TEXTS)
    full = encoder(tokens)
    assert full.dtype == torch.float32
    assert torch.allclose(full, exact.load(tmp_path)(tokens), atol=0.1)
    stored = [states.float() for states in encoder.hidden_states(tokens, LAYER)]
    assert torch.equal(encoder(tokens, stored, LAYER), full)
    adapter(kind).attach(encoder)
    trained(encoder)
    encoder(tokens, stored, LAYER).square().sum().backward()
    parts = [encoder.get_parameter(name) for name in adapter_names(encoder)]
    assert {part.dtype for part in parts} == {torch.float32}
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in parts)


@pytest.mark.parametrize("name", ["llama_3_2_1b", "qwen3_0_6b", "minilm", "flan_t5_small", "hub"])
def test_recomputed_layers_have_the_same_gradients_and_keep_less(tmp_path: Path, name: str) -> None:
    gradients, kept = [], []
    for recomputed in (False, True):
        torch.manual_seed(0)
        encoder = saved(tmp_path, name).load(tmp_path)
        tokens = encoder.tokenize(TEXTS)
        states = encoder.hidden_states(tokens, LAYER)
        replace(adapter("lora"), gradient_checkpointing=recomputed).attach(encoder)
        trained(encoder)
        size = [0]

        def count(value: torch.Tensor, size: list[int] = size) -> torch.Tensor:
            size[0] += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            vectors = encoder(tokens, states, LAYER)
        kept.append(size[0])
        vectors.square().sum().backward()
        gradients.append([encoder.get_parameter(name).grad for name in adapter_names(encoder)])
        with torch.no_grad():
            assert torch.equal(encoder(tokens, states, LAYER), vectors)
    assert kept[1] < kept[0] / 2
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_saved_alone_and_loaded_to_the_bit(tmp_path: Path, kind: str) -> None:
    encoders = [TinyBackbone("tiny", 3, 32, 0, "mean", 64).load(tmp_path) for _ in range(2)]
    tokens = encoders[0].tokenize(TEXTS)
    for encoder in encoders:
        adapter(kind).attach(encoder)
    trained(encoders[0])
    save_checkpoint(nn.ModuleDict({"vectors": nn.ModuleDict({"encoder": encoders[0]})}), tmp_path)
    model = nn.ModuleDict({"vectors": nn.ModuleDict({"encoder": encoders[1]})})
    assert not torch.equal(encoders[0](tokens), encoders[1](tokens))
    load_checkpoint(model, tmp_path, new=adapter_names(model))
    assert torch.equal(encoders[0](tokens), encoders[1](tokens))


def test_a_checkpoint_with_half_an_adapter_is_refused(tmp_path: Path) -> None:
    small, large = (TinyBackbone("tiny", 3, 32, 0, "mean", 64).load(tmp_path) for _ in range(2))
    adapter("lora").attach(small)
    adapter("dora").attach(large)
    save_checkpoint(small, tmp_path)
    with pytest.raises(UserError, match="of another model: it lacks .*magnitude"):
        load_checkpoint(large, tmp_path, new=adapter_names(large))


@pytest.mark.parametrize("name", ["llama_3_2_1b", "bge_small", "hub"])
def test_a_merged_model_is_a_backbone_of_its_own(tmp_path: Path, name: str) -> None:
    backbone = saved(tmp_path, name)
    encoder = backbone.load(tmp_path)
    adapter("lora").attach(encoder)
    trained(encoder)
    merge(encoder)
    tokens = encoder.tokenize(TEXTS)
    encoder.model.save_pretrained(tmp_path / "model")
    assert torch.equal(backbone.load(tmp_path)(tokens), encoder(tokens))


def test_targets_by_path_and_refusals(tmp_path: Path) -> None:
    encoder = saved(tmp_path, "hub").load(tmp_path)
    config = compose_config("train", ["backbone=tiny", "adapter=lora", "adapter.num_layers=1"]).adapter
    config.targets = ["mlp.c_proj"]
    make(config).attach(encoder)
    assert {name.rpartition(".lora_")[0] for name in adapter_names(encoder)} == {"model.h.2.mlp.c_proj"}
    with pytest.raises(UserError, match=r"backbone.revision=main: a branch moves"):
        make(compose_config("train", ["backbone=hub", "backbone.repo=a/b", "backbone.revision=main"]).backbone)
    with pytest.raises(UserError, match=r"backbone.dtype=float16: it must be float32 or bfloat16"):
        make(compose_config("train", ["backbone=minilm", "backbone.dtype=float16"]).backbone)
    made = saved(tmp_path, "minilm")
    with pytest.raises(UserError, match=r"backbone.attn_implementation=fast: "):
        Backbone(made.name, made.mirrors, "float32", "fast", None, "mean", "", 64).load(tmp_path)
