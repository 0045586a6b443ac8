"""Vectors of a trained recommender as tokens of a language model. Shapes: n rows, D and H numbers of a vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from factorlm.errors import UserError
from factorlm.models.recommender import Recommender
from factorlm.scoring import Contexts


@dataclass(frozen=True)
class SoftTokens:
    """Which vectors, and how they are mapped.

    Args:
        run: folder of a finished run of a recommender that ranks by a product, trained on the same rows.
        hidden: numbers in the hidden layer of the mapping.
        train_adapter: whether an adapter is trained beside the mapping.
    """

    run: str | None
    hidden: int
    train_adapter: bool

    def __post_init__(self) -> None:
        if self.run is None:
            raise UserError("soft_tokens.run is missing: name the folder of a finished run whose vectors are mapped")
        if self.hidden < 1:
            raise UserError(f"soft_tokens.hidden={self.hidden}: it must be 1 or more")


class CollaborativeTokens(nn.Module):
    r"""Maps the vectors of users and items of a recommender into the space of token embeddings.

    .. math:: e = s\, W_2 \operatorname{relu}(W_1 (v - \mu) / \sigma)

    with one mapping for both sides, as in CoLLM (TKDE 37(5), 2025, section 4.2), and s the deviation of the embeddings.

    Args:
        source: the recommender, which stays as it is.
        contexts, items: of training rows [n], for mean and deviation.
        embeddings: [V, H] of tokens.
        hidden: numbers in the hidden layer.

    Raises:
        UserError: the recommender scores pair by pair and has no vectors.
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor

    def __init__(self, source: Recommender, contexts: Contexts, items: Tensor, embeddings: Tensor, hidden: int) -> None:
        super().__init__()
        if not source.factorized:
            raise UserError("soft_tokens.run scores pair by pair and has no vectors: name a run of head=dot or head=fm")
        self.source = source.requires_grad_(False)
        vectors = self._vectors(contexts, items)
        deviation, mean = torch.std_mean(vectors, 0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", torch.where(deviation > 1e-6, deviation, 1.0))
        self.register_buffer("scale", embeddings.detach().float().std())
        self.layers = nn.Sequential(
            nn.Linear(vectors.shape[2], hidden), nn.ReLU(), nn.Linear(hidden, embeddings.shape[1])
        )

    def forward(self, contexts: Contexts, items: Tensor) -> Tensor:
        """Vectors [n, 2, H] of the users and items of n rows."""
        vectors = (self._vectors(contexts, items) - self.mean) / self.deviation
        mapped: Tensor = self.scale * self.layers(vectors)
        return mapped

    @torch.no_grad()
    def _vectors(self, contexts: Contexts, items: Tensor) -> Tensor:
        """Vectors [n, 2, D] whose product is the score of the recommender, biases among them."""
        self.source.eval()
        return torch.stack(self.source.matrices(*self.source.sides(contexts, items)), 1)
