"""Linear model: the fields without their pairs."""

from __future__ import annotations

from torch import Tensor

from factorlm.heads.base import Pairwise, Shape, SumHead


class Linear(SumHead, Pairwise):
    r"""Linear model.

    .. math:: s = b + \sum_f w_f

    Every user ranks the items in the same order. As logistic regression the baseline of M. Richardson, E. Dominowska
    and R. Ragno, Predicting Clicks, WWW 2007. Factors have no numbers.
    """

    @staticmethod
    def factor_width(shape: Shape) -> int:
        """0."""
        return 0

    def pairs(self, factors: Tensor) -> Tensor:
        """Zeros [B, F, F]."""
        return factors.new_zeros(len(factors), self.shape.num_fields, self.shape.num_fields)
