"""Adapters on the top layers of a backbone, through peft.

An untrained adapter changes nothing; a trained one is saved by itself, and `merge` folds it into the weights.
"""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from factorlm.backbones.encoder import TextEncoder
from factorlm.errors import UserError

if TYPE_CHECKING:
    from peft import PeftConfig

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it where it is installed, and it says a lot
# names of linear maps, as Llama and its kin, BERT, T5, GPT-2, GPT-NeoX, Phi-3, ModernBERT and DistilBERT call them
ATTENTION = (
    "q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "q", "k", "v", "o", "c_attn", "query_key_value",
    "qkv_proj", "Wqkv", "q_lin", "k_lin", "v_lin",
)  # fmt: skip
# of the maps that IA3 rescales: keys and values by their output, the last of the feed-forward part by its input
KEYS_VALUES = ("k_proj", "v_proj", "key", "value", "k", "v", "c_attn", "query_key_value", "k_lin", "v_lin")
FEEDFORWARD = ("down_proj", "output.dense", "wo", "mlp.c_proj", "dense_4h_to_h", "lin2")


@dataclass(frozen=True, kw_only=True)
class Adapter(ABC):
    """What all adapters share: which linear maps of which layers.

    Args:
        num_layers: how many of the top layers are adapted; everything below stays frozen and is computed once.
        targets: linear maps adapted in each layer, by their name or by their path inside the layer, as
            ``mlp.c_proj``; None: those the paper adapts, as the architecture calls them.
        gradient_checkpointing: keep of each adapted layer only what enters it and run it again for its gradients: less
            memory for a third more time. T. Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
    """

    num_layers: int
    targets: Sequence[str] | None
    gradient_checkpointing: bool = False

    def first_layer(self, encoder: TextEncoder) -> int:
        """Index of the lowest adapted layer.

        Raises:
            UserError: the backbone has fewer layers.
        """
        if not 1 <= self.num_layers <= encoder.num_layers:
            raise UserError(f"adapter.num_layers={self.num_layers}: this backbone has {encoder.num_layers} layers")
        return encoder.num_layers - self.num_layers

    def attach(self, encoder: TextEncoder) -> None:
        """Add the adapter's trainable weights to the encoder in place, in float32.

        Raises:
            UserError: a target is no linear map of the top layers.
            RuntimeError: the encoder carries an adapter already.
        """
        with _quick_peft(encoder.model):
            from peft import inject_adapter_in_model

            if adapter_names(encoder):
                raise RuntimeError("this encoder carries an adapter already")
            inject_adapter_in_model(self._config(encoder), encoder.model)
        for value in encoder.model.parameters():
            if value.requires_grad:
                value.data = value.data.float()
        if self.gradient_checkpointing:  # that of transformers wants layers in training, where dropout is on
            for layer in encoder.layers[self.first_layer(encoder) :]:
                layer.forward = _recomputed(layer.forward)

    @abstractmethod
    def _config(self, encoder: TextEncoder) -> PeftConfig:
        """The adapter as peft describes it."""

    def _chosen(self, encoder: TextEncoder, known: Sequence[str]) -> list[str]:
        """Full names of the linear maps adapted: ``targets``, or those among the ``known`` names."""
        maps = dict(_linear_maps(encoder, self.first_layer(encoder)))
        wanted = known if self.targets is None else self.targets
        found = {target: [name for name, path in maps.items() if _is(path, target)] for target in wanted}
        missing = [] if self.targets is None else [target for target in wanted if not found[target]]
        names = [name for names in found.values() for name in names]
        if missing or not names:
            have = ", ".join(sorted({path.rpartition(".")[2] for path in maps.values()}))
            value = "null: none of the known names" if self.targets is None else f"{missing}: no such name"
            raise UserError(f"adapter.targets={value} among the linear maps of this backbone, which are {have}")
        return names


@dataclass(frozen=True, kw_only=True)
class LowRank(Adapter):
    """Updates B A of W, with A [r, in] random and B [out, r] zero; of all attention projections unless named.

    Args:
        rank: r.
        alpha: scale of the update.
    """

    rank: int
    alpha: float

    def _low_rank(self, encoder: TextEncoder, **kind: bool) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            target_modules=self._chosen(encoder, ATTENTION),
            fan_in_fan_out=_transposed(encoder),
            **kind,  # type: ignore[arg-type]
        )


class Lora(LowRank):
    """h = (W + (alpha / r) B A) x with W frozen.

    E. J. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
    """

    def _config(self, encoder: TextEncoder) -> PeftConfig:
        return self._low_rank(encoder)


class RsLora(LowRank):
    """h = (W + (alpha / sqrt(r)) B A) x with W frozen: the update keeps its size as the rank grows.

    D. Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732, 2023.
    """

    def _config(self, encoder: TextEncoder) -> PeftConfig:
        return self._low_rank(encoder, use_rslora=True)


class Dora(LowRank):
    """h = m (V / |V|) x with V = W + (alpha / r) B A: the update turns the rows of V, m [out] is their trained length.

    S.-Y. Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024.
    """

    def _config(self, encoder: TextEncoder) -> PeftConfig:
        return self._low_rank(encoder, use_dora=True)


class Ia3(Adapter):
    """Trained factors, one at first, of keys [out], values [out] and the hidden units of the feed-forward part [in].

    H. Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, NeurIPS
    2022. A target known as the last map of a feed-forward part is rescaled at its input, all others at their output.
    """

    def _config(self, encoder: TextEncoder) -> PeftConfig:
        from peft import IA3Config

        names = self._chosen(encoder, (*KEYS_VALUES, *FEEDFORWARD))
        paths = dict(_linear_maps(encoder, self.first_layer(encoder)))
        return IA3Config(
            target_modules=names,
            feedforward_modules=[name for name in names if any(_is(paths[name], last) for last in FEEDFORWARD)],
            fan_in_fan_out=_transposed(encoder),
        )


@contextmanager
def _quick_peft(model: nn.Module) -> Iterator[None]:
    """Hide bitsandbytes, whose import takes peft more than a second, from a model that has no need of it."""
    if "bitsandbytes" in sys.modules or getattr(model, "hf_quantizer", None) is not None:
        yield
        return
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available

        is_bnb_available.cache_clear()
        is_bnb_4bit_available.cache_clear()


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that belong to an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    owned = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]
    starts = tuple(f"{name}.{weight}." for name, layer in owned for weight in layer.adapter_layer_names)
    return [name for name, _ in model.named_parameters() if name.startswith(starts)]


@torch.no_grad()
def merge(encoder: TextEncoder) -> None:
    """Fold the adapter into the weights it adapts, in place: a plain model again, with equal vectors.

    ``encoder.model.save_pretrained(folder)`` then writes what ``backbone=folder`` reads.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, module) for name, module in encoder.model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        encoder.model.set_submodule(name, layer.get_base_layer())


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def _linear_maps(encoder: TextEncoder, first: int) -> Iterator[tuple[str, str]]:
    """Full name and path inside its layer of each linear map from layer ``first`` on."""
    from transformers.pytorch_utils import Conv1D

    prefix = next(name for name, module in encoder.model.named_modules() if module is encoder.layers)
    for index in range(first, encoder.num_layers):
        for path, module in encoder.layers[index].named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                yield f"{prefix}.{index}.{path}", path


def _transposed(encoder: TextEncoder) -> bool:
    """Whether weights are stored as [in, out], as GPT-2 does."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in encoder.layers.modules())


def _is(path: str, target: str) -> bool:
    return target in (path, path.rpartition(".")[2])
