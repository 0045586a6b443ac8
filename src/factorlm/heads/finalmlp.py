"""Two networks on gated factors, fused by bilinear forms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from factorlm.errors import UserError
from factorlm.heads.base import DeepHead, Shape
from factorlm.heads.parts import affine, mlp, projection


class FinalMLP(DeepHead):
    r"""FinalMLP.

    .. math::
        s = b + \sum_f w_f + \sum_j (a_j^\top o_{1j} + c_j^\top o_{2j} + o_{1j}^\top M_j o_{2j}), \quad
        o_i = \mathrm{MLP}_i(2 \sigma(\mathrm{Gate}_i(x_i)) \odot e), \quad e = [v_1; ...; v_F]

    K. Mao et al., FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction, AAAI 2023. The gate of stream 1 reads
    the user's factors x_1 and that of stream 2 the item's x_2; it has one ReLU layer. The outputs o_i [B, H_i] are cut
    into J heads o_{ij}, each with a bilinear form M_j [H_1 / J, H_2 / J], which starts as by Glorot and Bengio. There
    is no batch normalization, so that a row's score does not depend on the rows beside it. The linear terms, which the
    paper has not, are factorized by side.

    Args:
        shape: the fields of each side, and K.
        first_hidden: outputs of each ReLU layer of stream 1; the last is H_1.
        second_hidden: outputs of each ReLU layer of stream 2; the last is H_2.
        gate_size: outputs of the ReLU layer of a gate.
        num_heads: J; it divides H_1 and H_2.
        dropout: share of each stream's layer's outputs set to 0 in training.
    """

    def __init__(
        self,
        shape: Shape,
        first_hidden: Sequence[int] = (64, 64),
        second_hidden: Sequence[int] = (64, 64),
        gate_size: int = 64,
        num_heads: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(shape)
        width = shape.num_fields * shape.num_factors
        self.first_stream = mlp(width, first_hidden, dropout, "first_hidden")
        self.second_stream = mlp(width, second_hidden, dropout, "second_hidden")
        outputs = [[width, *hidden][-1] for hidden in (first_hidden, second_hidden)]
        if num_heads < 1 or any(output % num_heads for output in outputs):
            raise UserError(
                f"head.num_heads={num_heads}: it must divide the streams' outputs, {outputs[0]} and {outputs[1]}"
            )
        self.first_gate = _gate(shape.num_user_fields * shape.num_factors, gate_size, width)
        self.second_gate = _gate(shape.num_item_fields * shape.num_factors, gate_size, width)
        self.score = projection(sum(outputs))
        self.bilinear = nn.Parameter(torch.empty(num_heads, outputs[0] // num_heads, outputs[1] // num_heads))
        for matrix in self.bilinear:
            nn.init.xavier_normal_(matrix)

    def deep(self, factors: Tensor) -> Tensor:
        """Both streams and their fusion: [B, F, K] to [B]."""
        everything = factors.flatten(1)
        users, items = factors.tensor_split([self.shape.num_user_fields], 1)
        first: Tensor = self.first_stream(2 * self.first_gate(users.flatten(1)) * everything)
        second: Tensor = self.second_stream(2 * self.second_gate(items.flatten(1)) * everything)
        num_heads, first_size, _ = self.bilinear.shape
        moved = self.bilinear.mT @ first.T.reshape(num_heads, first_size, len(first))
        return torch.cat([first, second], 1) @ self.score + (moved.flatten(0, 1) * second.T).sum(0)


def _gate(num_inputs: int, size: int, num_outputs: int) -> nn.Sequential:
    """Sigmoid of a network with one ReLU layer."""
    return nn.Sequential(mlp(num_inputs, [size], 0.0, "gate_size"), affine(size, num_outputs), nn.Sigmoid())
