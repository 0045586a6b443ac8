"""LoRA adapters on the top layers of a backbone, through peft.

E. J. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022: h = W x + (alpha / r) B A x with W
frozen, A random and B zero, so an untrained adapter changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from factorlm.backbones.encoder import TextEncoder
from factorlm.errors import UserError


@dataclass(frozen=True)
class Lora:
    """A LoRA adapter.

    Args:
        rank: r, columns of B.
        alpha: scale of the update, which is multiplied by alpha / r.
        num_layers: how many of the top layers are adapted; everything below stays frozen and is computed once.
        targets: names of the linear maps adapted in each layer.
    """

    rank: int
    alpha: float
    num_layers: int
    targets: Sequence[str]

    def first_layer(self, encoder: TextEncoder) -> int:
        """Index of the lowest adapted layer.

        Raises:
            UserError: the backbone has fewer layers.
        """
        if not 1 <= self.num_layers <= encoder.num_layers:
            raise UserError(f"adapter.num_layers={self.num_layers}: this backbone has {encoder.num_layers} layers")
        return encoder.num_layers - self.num_layers

    def attach(self, encoder: TextEncoder) -> None:
        """Add the adapter's trainable matrices to the encoder in place.

        Raises:
            UserError: no linear map of the top layers has one of the target names.
        """
        from peft import LoraConfig, inject_adapter_in_model

        top = [str(layer) for layer in range(self.first_layer(encoder), encoder.num_layers)]
        linear = [name for name, module in encoder.model.named_modules() if isinstance(module, nn.Linear)]
        in_top = [name for name in linear if any(f".{layer}." in f".{name}" for layer in top)]
        names = [name for name in in_top if name.rpartition(".")[2] in self.targets]
        if not names:
            have = ", ".join(sorted({name.rpartition(".")[2] for name in in_top}))
            raise UserError(
                f"adapter.targets={list(self.targets)} names no linear map of the backbone, which has {have}"
            )
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=names)  # type: ignore[arg-type]
        inject_adapter_in_model(config, encoder.model)
