"""A user's history as a field: an encoder over the vectors of its items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from factorlm.encoders.base import CausalEncoder
from factorlm.scoring import Contexts

ItemVectors = Callable[[Tensor], Tensor]
GROUP = 32  # histories encoded at once


def item_sequences(items: Tensor, vectors: ItemVectors) -> Tensor:
    """Vectors [W, L, K] of items [W, L], each item encoded once."""
    unique, inverse = items.unique(return_inverse=True)
    return vectors(unique)[inverse]


def encode_histories(encoder: CausalEncoder, contexts: Contexts, vectors: ItemVectors) -> Tensor:
    """The vector of each context's history [C, K]; zero where there is none.

    In training, contexts that are moments of one history share a pass: the history is cut into windows of
    ``max_history_len`` items, and a context is read off its window. Otherwise each context reads its latest items.
    """
    known = (contexts.ends > contexts.starts).nonzero().squeeze(1)
    asked = contexts[known]
    if encoder.training:
        passed = asked.ends - asked.starts - 1
        begins, window = (asked.ends - 1 - passed % encoder.max_history_len).unique(return_inverse=True)
        ends = begins.scatter_reduce(0, window, asked.ends, "amax")
        windows = Contexts(begins, begins, ends, contexts.log)
        step = asked.ends - 1 - begins[window]
    else:
        windows, window = asked, torch.arange(len(asked), device=known.device)
        step = (asked.ends - asked.starts).clamp(max=encoder.max_history_len) - 1
    items, lengths = windows.last(encoder.max_history_len)
    sequences = item_sequences(items, vectors) if len(known) else vectors(contexts.log[:0]).unsqueeze(0)
    factor = sequences.new_zeros(len(contexts), sequences.shape[-1])
    order = lengths.argsort(stable=True)
    rank = torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=order.device))[window]
    for first in range(0, len(order), GROUP):  # alike in length, so that little is padded
        group = order[first : first + GROUP]
        rows = ((rank >= first) & (rank < first + GROUP)).nonzero().squeeze(1)
        states = encoder(sequences[group, : int(lengths[group[-1]])])
        factor = factor.index_copy(0, known[rows], states[rank[rows] - first, step[rows]].to(factor))
    return factor
