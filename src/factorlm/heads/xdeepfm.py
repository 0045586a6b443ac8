"""Compressed interaction network beside a deep network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from factorlm.errors import UserError
from factorlm.heads.base import DeepHead, Shape
from factorlm.heads.parts import mlp, projection, require_widths


class XDeepFM(DeepHead):
    r"""xDeepFM.

    .. math::
        s = b + \sum_f w_f + u^\top [\sum_k X^1_{\cdot k}; ...; \sum_k X^T_{\cdot k}]
            + h^\top \mathrm{MLP}([v_1; ...; v_F]), \quad
        X^t_{m} = \sum_{n,f} W^t_{mnf} (X^{t-1}_{n} \odot v_f), \quad X^0_f = v_f

    J. Lian et al., xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems, KDD 2018:
    layer t of the compressed interaction network has M_t maps X [M_t, K], whose sums over K are scored; the activation
    is the identity, which the paper found best. W and u start as by Glorot and Bengio. The network beside it has ReLU
    and dropout and no batch normalization, so that a row's score does not depend on the rows beside it. The linear
    terms are factorized by side.

    Args:
        shape: the fields of each side, and K.
        maps: M_t of each layer of the compressed interaction network.
        hidden: outputs of each ReLU layer.
        dropout: share of each ReLU layer's outputs set to 0 in training.
    """

    def __init__(
        self, shape: Shape, maps: Sequence[int] = (16, 16), hidden: Sequence[int] = (64, 64), dropout: float = 0.0
    ) -> None:
        super().__init__(shape)
        if not maps:
            raise UserError("head.maps=[]: the compressed interaction network needs a layer, such as head.maps=[16]")
        require_widths("maps", maps)
        sizes = zip([shape.num_fields, *maps], maps, strict=False)
        self.compress = nn.ParameterList(torch.empty(m, n * shape.num_fields) for n, m in sizes)
        for weight in self.compress:
            nn.init.xavier_normal_(weight)
        width = shape.num_fields * shape.num_factors
        self.layers = mlp(width, hidden, dropout)
        self.score = projection(sum(maps) + [width, *hidden][-1])

    def deep(self, factors: Tensor) -> Tensor:
        """Both networks on all factors: [B, F, K] to [B]."""
        rows, fields, num_factors = factors.shape
        first = factors.transpose(0, 1).reshape(fields, rows * num_factors)
        maps, sums = first, []
        for weight in self.compress:
            maps = weight @ (maps.unsqueeze(1) * first).flatten(0, 1)
            sums.append(maps.reshape(len(maps), rows, num_factors).sum(2).T)
        return torch.cat([*sums, self.layers(factors.flatten(1))], 1) @ self.score
