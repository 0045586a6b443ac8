"""Deep and cross network, second version."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from factorlm.errors import UserError
from factorlm.heads.base import DeepHead, Shape
from factorlm.heads.parts import Dense, mlp, projection


class DCNv2(DeepHead):
    r"""DCN-V2, parallel structure.

    .. math::
        s = b + \sum_f w_f + h^\top [x_L; \mathrm{MLP}(x_0)], \quad
        x_{l+1} = x_0 \odot (W_l x_l + c_l) + x_l, \quad x_0 = [v_1; ...; v_F]

    R. Wang et al., DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems,
    WWW 2021, with full matrices W [F K, F K], and the network beside the cross layers. As in the paper the kernels
    start as by He et al. (normal) and c at 0; h starts as by Glorot and Bengio. There is no batch normalization, so
    that a row's score does not depend on the rows beside it. The linear terms, which the paper has not, are factorized
    by side.

    Args:
        shape: the fields of each side, and K.
        num_layers: cross layers L; each adds one degree of interaction.
        hidden: outputs of each ReLU layer.
        dropout: share of each ReLU layer's outputs set to 0 in training.
    """

    def __init__(
        self, shape: Shape, num_layers: int = 2, hidden: Sequence[int] = (64, 64), dropout: float = 0.0
    ) -> None:
        super().__init__(shape)
        if num_layers < 1:
            raise UserError(f"head.num_layers={num_layers}: it must be 1 or more")
        width = shape.num_fields * shape.num_factors
        self.crosses = nn.ModuleList(_cross(width) for _ in range(num_layers))
        self.layers = mlp(width, hidden, dropout)
        self.score = projection(width + [width, *hidden][-1])

    def deep(self, factors: Tensor) -> Tensor:
        """Cross layers and network on all factors: [B, F, K] to [B]."""
        first = crossed = factors.flatten(1)
        for cross in self.crosses:
            crossed = torch.addcmul(crossed, first, cross(crossed))
        return torch.cat([crossed, self.layers(first)], 1) @ self.score


def _cross(width: int) -> Dense:
    layer = Dense(width, width)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
