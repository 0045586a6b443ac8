"""Print the memory that a language model and its adapter take, as in docs/scale.md.

    .venv/bin/python scripts/memory.py

Models are built from their configs without weights (on PyTorch's meta device), LoRA of rank 8 is attached to the
attention projections of the top layers, and what a forward pass keeps for the backward pass is counted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoModel, LlamaConfig, PretrainedConfig, Qwen3Config

from factorlm.backbones.adapter import Lora
from factorlm.backbones.encoder import TextEncoder

QWEN3 = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128}
MODELS: dict[str, PretrainedConfig] = {
    "Qwen3-0.6B": Qwen3Config(
        **QWEN3, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
    ),
    "Llama-3.2-1B": LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8,
    ),
    "Qwen3-1.7B": Qwen3Config(
        **QWEN3, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
    ),
    "Qwen3-4B": Qwen3Config(
        **QWEN3, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
    ),
    "Vicuna-7B": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    ),
}  # fmt: skip
TOKENS = 64
COLUMNS = (
    "model", "parameters", "bf16", "8 bits", "4 bits", "one layer, bf16", "stored, a million tokens",
    "adapter, 4 layers", "activations, a token and layer", "the same, recomputed",
)  # fmt: skip


def kept(encoder: TextEncoder) -> float:
    """Bytes for each token that one pass keeps for its gradients, but for weights."""
    weights = {value.untyped_storage()._cdata for value in encoder.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage takes the place of another

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = storage.nbytes()
            alive.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        ids = torch.zeros(1, TOKENS, dtype=torch.int64, device="meta")
        mask = torch.zeros(
            1, 1, TOKENS, TOKENS, dtype=torch.bfloat16, device="meta"
        )  # made here, it asks for no values
        encoder.model(input_ids=ids, attention_mask=mask)
    return sum(sizes.values()) / TOKENS


def main() -> None:
    print(f"| {' | '.join(COLUMNS)} |\n|---{'|---:' * (len(COLUMNS) - 1)}|")
    for name, config in MODELS.items():
        with torch.device("meta"):
            whole = AutoModel.from_config(config, dtype=torch.bfloat16)
            number = sum(value.numel() for value in whole.parameters())
            layer = sum(value.numel() for value in whole.layers[0].parameters())
            one, more = [], 0
            for layers in (1, 2):
                model = AutoModel.from_config(config, dtype=torch.bfloat16)
                encoder = TextEncoder(model, None, "mean", TOKENS)  # type: ignore[arg-type]
                Lora(rank=8, alpha=16, num_layers=layers, targets=None).attach(encoder)
                one.append(kept(encoder))
                more = sum(value.numel() for value in encoder.parameters() if value.requires_grad) // layers
        hidden = config.hidden_size
        gib, kib = 2**30, 2**10
        cells = [
            f"{number / 1e9:.2f} G", *(f"{number * size / gib:.1f} GiB" for size in (2, 1, 0.5)),
            f"{layer * 2 / gib:.2f} GiB", f"{4e6 * hidden / gib:.1f} GiB", f"{4 * more * 16 / 2**20:.0f} MiB",
            f"{(one[1] - one[0]) / kib:.0f} KiB", f"{2 * hidden / kib:.0f} KiB",
        ]  # fmt: skip
        print(f"| {' | '.join([name, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
