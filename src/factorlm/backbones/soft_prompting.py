"""Prompts some of whose tokens are vectors of users and items in place of words.

Y. Zhang et al., CoLLM: Integrating Collaborative Embeddings into Large Language Models for Recommendation, TKDE 37(5),
2025. Shapes: n prompts, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from factorlm.backbones.packing import Tokens
from factorlm.backbones.prompt_states import NoStates
from factorlm.backbones.prompting import Prompt, PromptScorer
from factorlm.data.prompts import VECTORS
from factorlm.scoring import Contexts

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from factorlm.backbones.adapter import Adapter
    from factorlm.data.prompts import PromptTemplate


class SoftEmbeddings:
    """Lets a model read token -1 - j as row j of ``vectors`` [m, H]; without any, as zeros."""

    def __init__(self, embeddings: nn.Module) -> None:
        self.vectors: Tensor | None = None
        self._rows = torch.empty(0)
        embeddings.register_forward_pre_hook(self._before)
        embeddings.register_forward_hook(self._after)

    def _before(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._rows = -1 - args[0]
        return (args[0].clamp(min=0),)

    def _after(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        soft = self._rows >= 0
        if not soft.any():
            return output
        vectors = output.new_zeros(int(soft.sum()), output.shape[-1])
        if self.vectors is not None:
            vectors = self.vectors[self._rows[soft]].to(output)
        return output.masked_scatter(soft.unsqueeze(-1), vectors)


class SoftPromptScorer(PromptScorer):
    """A prompt scorer whose template names vectors of the user and of the item.

    The vectors are trained, so nothing that stands on them is kept on disk: what comes before them is read once for the
    targets of a context, in evaluation, and again in the next.

    Args:
        model, tokenizer, template, items: as of `PromptScorer`.
        vectors: maps contexts and items [n] to vectors [n, 2, H] of either.
        train_adapter: whether an adapter is trained beside the vectors, or stays as it was loaded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        items: pl.DataFrame,
        vectors: nn.Module,
        *,
        train_adapter: bool,
    ) -> None:
        self._soft = SoftEmbeddings(model.get_input_embeddings())
        super().__init__(model, tokenizer, template, items, lambda layer: NoStates())
        self.vectors = vectors
        self._train_adapter = train_adapter

    def adapt(self, adapter: Adapter) -> None:
        """Attach an adapter."""
        adapter.attach(self.encoder)
        if not self._train_adapter:
            for parameter in self.encoder.parameters():
                if parameter.requires_grad:
                    parameter.requires_grad_(False)
                    parameter.learned = True  # type: ignore[attr-defined]

    def prompts(self, contexts: Contexts, items: Tensor) -> list[Prompt]:
        """The prompt of each context and item [n]; its vectors are rows 2 j and 2 j + 1 of those of all."""
        return [
            Prompt(prompt.history, _numbered(prompt.target, place))
            for place, prompt in enumerate(super().prompts(contexts, items))
        ]

    def trained(self, contexts: Contexts, items: Tensor) -> Tensor:
        """States [n, H] of last tokens by one padded batch, with gradients to the vectors and a trained adapter."""
        with self._mapped(contexts, items):
            return super().trained(contexts, items)

    @torch.no_grad()
    def read(self, contexts: Contexts, items: Tensor) -> Tensor:
        """States [n, H] of last tokens; the instruction is read once and a history once for all its targets."""
        with self._mapped(contexts, items):
            return super().read(contexts, items)

    @contextmanager
    def _mapped(self, contexts: Contexts, items: Tensor) -> Iterator[None]:
        self._soft.vectors = self.vectors(contexts, items).flatten(0, 1)
        try:
            yield
        finally:
            self._soft.vectors = None


def _numbered(tokens: Sequence[int], place: int) -> Tokens:
    """The tokens of a template with those of vectors, -1 and -2, replaced by those of row ``place``."""
    return tuple(token if token >= 0 else token - len(VECTORS) * place for token in tokens)
