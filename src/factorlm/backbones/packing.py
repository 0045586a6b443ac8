"""Several pieces of text in one forward pass, each attending to itself and to what was read before it, without padding.

All of a transformer but its attention works token by token, so one pass over the tokens of all pieces gives each the
states it would have alone. Shapes: T tokens of a pass, t of a piece, P before it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = tuple[int, ...]

NAME = "factorlm_packed"
FEWEST = 16  # tokens of a pass: with fewer rows a float32 product on a CPU with AVX-512 rounds otherwise


@dataclass
class Piece:
    """Tokens [t] to read after P others.

    Attributes:
        tokens: of this piece.
        before: all P tokens that it follows.
        past: their keys and values [1, heads, P, size] by layer, as a pass found them.
        keep: whether other pieces will follow this one.
        found: keys and values [1, heads, P + t, size] by layer, once a piece that is kept was read.
    """

    tokens: Tokens
    before: Tokens = ()
    past: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    keep: bool = False
    found: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def then(self, tokens: Tokens, *, keep: bool = False) -> Piece:
        """A piece that follows this one, which was read."""
        return Piece(tokens, self.whole, self.found, keep)

    @property
    def whole(self) -> Tokens:
        """All P + t tokens."""
        return (*self.before, *self.tokens)


def passes(pieces: Iterable[Piece], max_tokens: int = 512) -> Iterator[list[Piece]]:
    """Yield the pieces of each pass, in their order; one that is longer has its own."""
    chosen: list[Piece] = []
    size = 0
    for piece in pieces:
        size += len(piece.tokens)
        if chosen and size > max_tokens:
            yield chosen
            chosen, size = [], len(piece.tokens)
        chosen.append(piece)
    if chosen:
        yield chosen


@dataclass
class _Pass:
    """What runs: pieces, the attention that the model is set to, and masks [1, 1, t, P + t] by window."""

    pieces: list[Piece]
    attention: str
    masks: dict[int | None, list[Tensor]] = field(default_factory=dict)


_running: ContextVar[_Pass] = ContextVar("pass")


@contextmanager
def packed(model: PreTrainedModel, pieces: Sequence[Piece]) -> Iterator[Mapping[str, Any]]:
    """Arguments of a pass [1, T] over pieces, during which attention is theirs; further tokens bring T to 16.

    The model must attend by transformers' ``AttentionInterface``.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    missing = FEWEST - sum(len(piece.tokens) for piece in pieces)
    pieces = [*pieces, *([Piece((0,) * missing)] if missing > 0 else [])]
    own = model.config._attn_implementation
    running = _running.set(_Pass(pieces, own))
    model.config._attn_implementation = NAME
    try:
        yield {
            "input_ids": torch.tensor([[token for piece in pieces for token in piece.tokens]], device=model.device),
            "position_ids": torch.tensor(
                [[place for piece in pieces for place in range(len(piece.before), len(piece.whole))]],
                device=model.device,
            ),
            # not read; but with a mask of four dimensions a model makes none of its own
            "attention_mask": torch.zeros(1, 1, 1, 1, device=model.device),
            "use_cache": False,
        }
    finally:
        model.config._attn_implementation = own
        _running.reset(running)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Attention of the running pass, piece by piece as the model attends: with its ``eager`` code, else by sdpa."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    now = _running.get()
    eager = now.attention == "eager"
    within = sys.modules[type(module).__module__].eager_attention_forward if eager else sdpa_attention_forward
    window = options.get("sliding_window")
    if window not in now.masks:
        now.masks[window] = [_mask(piece, window).to(query.device, query.dtype) for piece in now.pieces]
    layer, start, results = int(module.layer_idx), 0, []  # type: ignore[arg-type]
    for piece, mask in zip(now.pieces, now.masks[window], strict=True):
        place = slice(start, start := start + len(piece.tokens))
        keys, values = key[:, :, place], value[:, :, place]
        if piece.past:
            keys, values = (torch.cat(pair, 2) for pair in zip(piece.past[layer], (keys, values), strict=True))
        if piece.keep:
            piece.found[layer] = keys, values
        results.append(within(module, query[:, :, place], keys, values, mask, **options)[0])
    return torch.cat(results, 1), None


def _mask(piece: Piece, window: int | None) -> Tensor:
    """What is added to attention [1, 1, t, P + t]: nothing to itself and the tokens before, in a window the latest."""
    before, seen = len(piece.before), torch.ones(len(piece.tokens), len(piece.whole), dtype=torch.bool)
    seen = seen.tril(before)
    if window is not None:
        seen = seen.triu(before - window + 1)
    return torch.zeros(1, 1, *seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
