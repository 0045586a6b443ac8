"""Fields that are no codes: indices of users or items to a linear term [B] and a factor [B, K]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from factorlm.backbones.encoder import TextEncoder
from factorlm.data.fields import NumericField
from factorlm.parallel import divided, largest

FieldTerms = tuple[Tensor, Tensor]


class NumericTerms(nn.Module):
    """A numeric field x: w x and v x with one w and v.

    Args:
        field: standardized column.
        num_factors: numbers in a factor.
        init_std: deviation of the initial factors.
    """

    values: Tensor

    def __init__(self, field: NumericField, num_factors: int, init_std: float) -> None:
        super().__init__()
        self.register_buffer("values", torch.tensor(field.values), persistent=False)
        self.weight = nn.Parameter(torch.zeros(()))
        self.factor = nn.Parameter(torch.randn(num_factors) * init_std)

    def forward(self, index: Tensor) -> FieldTerms:
        values = self.values[index]
        return values * self.weight, values.unsqueeze(-1) * self.factor


class TextTerms(nn.Module):
    """A text field: linear projections of the language model's vector, standardized and divided by its length H.

    The division gives the projections the pace of an id: under Adam every weight moves by about the learning rate, so
    the sum over H inputs of unit size would move H times as far.

    Args:
        index: [N] row of the texts for each user or item.
        vectors: the source of vectors, `FrozenVectors` or `AdaptedVectors`.
        mean, deviation: [H] of the frozen vectors over training texts.
        num_factors: K.
        init_std: deviation of the initial factors.
    """

    index: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        index: Tensor,
        vectors: nn.Module,
        mean: Tensor,
        deviation: Tensor,
        num_factors: int,
        init_std: float,
    ) -> None:
        super().__init__()
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.vectors = vectors
        self.weight = nn.Linear(len(mean), 1, bias=False)
        self.factor = nn.Linear(len(mean), num_factors, bias=False)
        nn.init.zeros_(self.weight.weight)
        nn.init.normal_(self.factor.weight, std=init_std * len(mean) ** 0.5)

    def forward(self, index: Tensor) -> FieldTerms:
        unique, inverse = self.index[index].unique(return_inverse=True)
        vectors = (self.vectors(unique) - self.mean) / (self.deviation * len(self.mean))
        with torch.autocast(vectors.device.type, enabled=False):  # a factor is float32 in mixed precision, too
            return self.weight(vectors).squeeze(-1)[inverse], self.factor(vectors)[inverse]


class FrozenVectors(nn.Module):
    """Vectors of a frozen backbone: ``table`` [T, H], looked up."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def forward(self, texts: Tensor) -> Tensor:
        """Vectors [n, H] of n text rows."""
        return self.table[texts]


class AdaptedVectors(nn.Module):
    """Vectors of a backbone whose top layers carry a trainable adapter; the frozen layers below are never recomputed.

    Args:
        encoder: with the adapter attached.
        tokens: ids of each of T texts.
        states: [sum of lengths, H] hidden states that enter the first adapted layer.
        offsets: [T + 1] of each text in ``states``.
        layer: index of the first adapted layer.
        batch_texts: texts per forward pass.
    """

    states: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        tokens: list[list[int]],
        states: Tensor,
        offsets: Tensor,
        layer: int,
        batch_texts: int = 32,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.layer, self._tokens, self._offsets, self._batch_texts = layer, tokens, offsets, batch_texts
        self.register_buffer("states", states, persistent=False)

    def forward(self, texts: Tensor) -> Tensor:
        """Vectors [n, H] of n text rows, computed in batches of similar length."""
        order = torch.tensor(sorted(range(len(texts)), key=lambda i: len(self._tokens[int(texts[i])])))
        batches = [texts[order[start : start + self._batch_texts]] for start in range(0, len(texts), self._batch_texts)]
        if any(map(divided, self.encoder.parameters())):  # all processes run a divided layer equally often
            batches += [torch.zeros(1, dtype=torch.int64)] * (largest(len(batches)) - len(batches))
        rows = torch.cat([self.states[:0], *(self._encode(batch) for batch in batches)])
        return rows[order.argsort()]

    def _encode(self, texts: Tensor) -> Tensor:
        chosen = texts.tolist()
        hidden = [self.states[self._offsets[i] : self._offsets[i + 1]] for i in chosen]
        vectors: Tensor = self.encoder([self._tokens[i] for i in chosen], hidden, self.layer)
        return vectors
