"""Factorization machine of second order."""

from __future__ import annotations

from torch import Tensor

from factorlm.heads.base import Pairwise, SumHead


class FM(SumHead, Pairwise):
    r"""Factorization machine.

    .. math:: s = b + \sum_f w_f + \sum_{f<g} \langle v_f, v_g \rangle

    S. Rendle, Factorization Machines, ICDM 2010, equation 1; the pair sum is taken in O(FK) by its lemma 3.1. With the
    fields divided into two sides, the pairs across them are the product of the sides' sums.
    """

    def pairs(self, factors: Tensor) -> Tensor:
        """Inner products, above the diagonal of [B, F, F]."""
        return (factors @ factors.mT).triu(1)
