"""Neural factorization machine."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from factorlm.heads.base import DeepHead, Shape, interaction
from factorlm.heads.parts import mlp, projection, require_share


class NFM(DeepHead):
    r"""Neural factorization machine.

    .. math:: s = b + \sum_f w_f + h^\top \mathrm{MLP}(\sum_{f<g} v_f \odot v_g)

    X. He and T.-S. Chua, Neural Factorization Machines for Sparse Predictive Analytics, SIGIR 2017, with dropout on the
    pooled pairs and after each ReLU layer. The paper's batch normalization is left out, so that a row's score does not
    depend on the rows beside it. Without hidden layers and with h = 1 it is the FM.

    Args:
        shape: the fields of each side, and K.
        hidden: outputs of each ReLU layer.
        dropout: share of the K pooled pairs and of each layer's outputs set to 0 in training.
    """

    def __init__(self, shape: Shape, hidden: Sequence[int] = (64,), dropout: float = 0.0) -> None:
        super().__init__(shape)
        require_share(dropout)
        self.layers = mlp(shape.num_factors, hidden, dropout if hidden else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.score = projection([shape.num_factors, *hidden][-1])

    def deep(self, factors: Tensor) -> Tensor:
        """The network on the pooled pairs: [B, F, K] to [B]."""
        outputs: Tensor = self.layers(self.dropout(interaction(factors)))
        return outputs @ self.score
