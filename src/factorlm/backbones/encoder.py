"""A transformer that turns texts into one vector each, able to start from stored hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from factorlm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pooling = Literal["last", "mean", "cls"]


class TextEncoder(nn.Module):
    """Token sequences to pooled last hidden states.

    Always in evaluation mode: dropout of the backbone would make its vectors a function of the seed.

    Args:
        model: any causal or encoder model, or the encoder of a sequence-to-sequence model; its parameters are frozen.
        tokenizer: of the model.
        pooling: ``last`` token, ``mean`` over tokens or the first (``cls``) token.
        max_seq_len: tokens after which a text is cut.
        prefix: before each text.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pooling: Pooling,
        max_seq_len: int,
        prefix: str = "",
    ) -> None:
        super().__init__()
        if pooling not in ("last", "mean", "cls"):
            raise UserError(f"backbone.pooling={pooling!r}: it must be last, mean or cls")
        model.config.use_cache = False
        self.model = model.requires_grad_(False).eval()
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._max_seq_len = max_seq_len
        self._prefix = prefix

    @property
    def hidden_size(self) -> int:
        """H, the length of the vectors."""
        return int(self.model.config.hidden_size)

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        return len(self.layers)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, from the bottom up."""
        count = self.model.config.num_hidden_layers
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise UserError(f"an adapter on {type(self.model).__name__}: it has no list of its {count} layers")

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay in evaluation mode."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, at most ``max_seq_len``; an empty text becomes one end-of-text token."""
        whole = [self._prefix + text for text in texts]
        encoded = self._tokenizer(whole, truncation=True, max_length=self._max_seq_len)["input_ids"]
        return [list(ids) or [self._tokenizer.eos_token_id or 0] for ids in encoded]

    def forward(
        self, tokens: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None, layer: int = 0
    ) -> Tensor:
        """Pool the last hidden state of n texts.

        Args:
            tokens: n lists of token ids.
            hidden: n stored hidden states [t, H] that enter layer ``layer``, as `hidden_states` gives them; the layers
                below are then skipped.
            layer: the first layer to run.

        Returns:
            [n, H] in float32.
        """
        ids, mask = self._pad(tokens)
        entering = None if hidden is None else nn.utils.rnn.pad_sequence(list(hidden), batch_first=True)
        return self._pool(self.states({"input_ids": ids, "attention_mask": mask}, entering, layer), mask)

    def states(self, inputs: Mapping[str, Tensor], hidden: Tensor | None = None, layer: int = 0) -> Tensor:
        """Last hidden states [n, t, H] in float32 of what the model is given.

        Args:
            inputs: arguments of the model.
            hidden: [n, t, H] stored, as `entering` gives it for the same inputs; the layers below are skipped.
            layer: the first layer to run.
        """
        if hidden is None:
            states: Tensor = self.model(**inputs).last_hidden_state
        else:
            with self._resumed(hidden.to(self.model.device, self.model.dtype), layer):
                states = self.model(**inputs).last_hidden_state
        return states.float()

    @torch.no_grad()
    def hidden_states(self, tokens: Sequence[Sequence[int]], layer: int) -> list[Tensor]:
        """Hidden states [t, H] that enter layer ``layer`` of n texts; nothing above is computed."""
        ids, mask = self._pad(tokens)
        states = self.entering(layer, {"input_ids": ids, "attention_mask": mask})
        return [row[: len(text)] for row, text in zip(states, tokens, strict=True)]

    @torch.no_grad()
    def entering(self, layer: int, inputs: Mapping[str, Tensor]) -> Tensor:
        """Hidden states [n, t, H] that enter layer ``layer`` when the model is given ``inputs``."""
        caught: list[Tensor] = []

        def catch(module: nn.Module, args: tuple[Any, ...]) -> None:
            caught.append(args[0])
            raise _EnoughError

        handle = self.layers[layer].register_forward_pre_hook(catch)
        try:
            self.model(**inputs)
        except _EnoughError:
            pass
        finally:
            handle.remove()
        return caught[0]

    @torch.no_grad()
    def require_resumable(self, layer: int) -> None:
        """Compare the resumed with the full forward pass on two texts, to the last bit.

        Raises:
            UserError: this architecture's layers are not a plain chain.
        """
        tokens = self.tokenize(["a short text", "another text, which is a little longer"])
        try:
            same = torch.equal(self(tokens), self(tokens, self.hidden_states(tokens, layer), layer))
        except (AttributeError, IndexError, RuntimeError, TypeError) as error:
            raise UserError(f"an adapter on {type(self.model).__name__} is not supported: {error}") from error
        if not same:
            raise UserError(
                f"an adapter on {type(self.model).__name__} is not supported: its layers are no plain chain"
            )

    @contextmanager
    def _resumed(self, hidden: Tensor, layer: int) -> Iterator[None]:
        """Run the model with ``hidden`` [n, t, H] as the input of ``layer`` and nothing computed below it.

        But the first layer, where it makes something for all others: T5's turns positions into a bias of attention.
        """
        layers = self.layers
        first = int(any(isinstance(module, nn.Embedding) for module in layers[0].modules()))
        below = [layers[index] for index in range(first, layer)]
        made: list[Any] = []
        handles = [layers[layer].register_forward_pre_hook(lambda module, args: (hidden, *args[1:]))]
        if first:
            handles.append(layers[0].register_forward_hook(lambda module, args, output: made.append(output)))
        try:
            for index, module in enumerate(below, first):
                layers[index] = _Skip(module, made)
            yield
        finally:
            for handle in handles:
                handle.remove()
            for index, module in enumerate(below, first):
                layers[index] = module

    def _pad(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        device = self.model.device
        rows = [torch.tensor(list(ids)) for ids in tokens]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return ids.to(device), mask.to(device)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        if self._pooling == "cls":
            return states[:, 0]
        if self._pooling == "last":
            return states[torch.arange(len(states)), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


class _Skip(nn.Module):
    """Stands in for a layer whose output will not be used, but whose attributes may be asked for.

    It hands on what a layer that did run has ``made``, or else its input.
    """

    def __init__(self, layer: nn.Module, made: list[Any]) -> None:
        super().__init__()
        self._layer = [layer]  # in a list, so that its parameters do not count as ours
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_layer"][0], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._made[0] if self._made else hidden_states


class _EnoughError(Exception):
    """Ends a forward pass as soon as the wanted hidden state is there."""


def length_batches(tokens: Sequence[Sequence[int]], max_tokens: int = 2048) -> Iterator[list[int]]:
    """Yield index lists of texts of similar length, shortest first, at most ``max_tokens`` with padding each.

    An eighth of that is enough for a batch of its own: then a longer text begins the next, and little is padded.
    """
    batch: list[int] = []
    for index in sorted(range(len(tokens)), key=lambda i: len(tokens[i])):
        size, shortest = len(tokens[index]), len(tokens[batch[0]]) if batch else 0
        full = (len(batch) + 1) * size > max_tokens
        if batch and (full or (size > shortest and len(batch) * shortest >= max_tokens // 8)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
