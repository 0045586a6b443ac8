"""Causal transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.encoders.base import CausalEncoder, require_share
from factorlm.errors import UserError


class SASRec(CausalEncoder):
    """Self-attention over the items so far, with learned positions counted from the oldest item that is read.

    W.-C. Kang and J. McAuley, Self-Attentive Sequential Recommendation, ICDM 2018; blocks normalize their input instead
    of their output (R. Xiong et al., ICML 2020), and the feed-forward layers are ``4 K`` wide.

    Args:
        num_factors: K.
        max_history_len: items, the latest, that are read.
        num_layers: attention blocks.
        num_heads: of each block; they divide K.
        dropout: in training.
    """

    def __init__(
        self, num_factors: int, *, max_history_len: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__(max_history_len)
        require_share(dropout)
        if num_heads < 1 or num_factors % num_heads:
            raise UserError(f"encoder.num_heads={num_heads}: it must divide the {num_factors} numbers of a factor")
        self.scale = num_factors**0.5
        self.positions = nn.Parameter(torch.randn(max_history_len, num_factors) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(num_factors, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(num_factors)

    def forward(self, items: Tensor) -> Tensor:
        """See `CausalEncoder`."""
        states = self.dropout(items * self.scale + self.positions[: items.shape[1]])
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed


class _Block(nn.Module):
    """Attention and feed-forward layers, each added to its input."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.mix, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.feed = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """States [W, L, K] to states [W, L, K]."""
        rows, length, size = states.shape
        mixed = self.mix(self.attention_norm(states)).view(rows, length, 3, self.num_heads, size // self.num_heads)
        queries, keys, values = mixed.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        states = states + self.dropout(self.out(seen.transpose(1, 2).reshape(rows, length, size)))
        result: Tensor = states + self.dropout(self.feed(self.feed_norm(states)))
        return result
