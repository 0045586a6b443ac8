"""A tiny transformer with random weights: every mechanism of a language model, none of its knowledge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from factorlm.backbones.encoder import Pooling, TextEncoder

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TinyBackbone:
    """A Llama of a few thousand random weights over bytes, for tests and dry runs without a download.

    Args:
        name: for messages and reports.
        num_layers: transformer layers.
        hidden_size: length of the vectors; a multiple of 4.
        seed: of the weights.
        pooling: ``last`` token, ``mean`` over tokens or the first (``cls``) token.
        max_seq_len: bytes after which a text is cut.
    """

    name: str
    num_layers: int
    hidden_size: int
    seed: int
    pooling: Pooling
    max_seq_len: int

    def identity(self) -> str:
        """The arguments."""
        return repr(asdict(self))

    def fetch(self, cache_dir: Path) -> None:
        """There is nothing to fetch."""

    def load(self, cache_dir: Path) -> TextEncoder:
        """Build the model; nothing is read or written."""
        from transformers import LlamaModel

        model, tokenizer = self._build(LlamaModel)
        return TextEncoder(model, tokenizer, self.pooling, self.max_seq_len)

    def load_causal(self, cache_dir: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Build the model with a language-model head, random too."""
        from transformers import LlamaForCausalLM

        return self._build(LlamaForCausalLM)

    def _build(self, kind: Callable[[LlamaConfig], PreTrainedModel]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        from tokenizers import Tokenizer, decoders, pre_tokenizers
        from tokenizers.models import BPE
        from transformers import LlamaConfig, PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: index for index, token in enumerate(["<eos>", *alphabet])}
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=self.hidden_size,
            intermediate_size=2 * self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=self.max_seq_len,
            bos_token_id=0,
            eos_token_id=0,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = kind(config)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")  # noqa: S106
        return model, fast
