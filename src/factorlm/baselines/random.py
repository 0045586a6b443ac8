"""Chance."""

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.scoring import Contexts

# odd constants and shifts of Stafford's Mix13, the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)
GOLDEN = -0x61C8864680B583EB
MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))


class Random(Baseline):
    """Uniform scores in [0, 1), each a hash of seed, user index and item index, whatever else is scored."""

    seed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seed", torch.zeros(0, dtype=torch.int64))

    def fit(self, data: TrainingData) -> None:
        """Take the seed of the run; nothing is learned."""
        self.seed = torch.tensor(data.seed)

    def catalogue(self, contexts: Contexts, items: Tensor) -> RandomCatalogue:
        """Fix contexts [C] and candidates [N]; histories play no part."""
        return RandomCatalogue(_mix(_mix(self.seed) + contexts.users), items)


class RandomCatalogue:
    """Streams of contexts [V] and items [N]."""

    def __init__(self, streams: Tensor, items: Tensor) -> None:
        self._streams, self._items = streams, items

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N] of contexts, given by their places [U], against all items."""
        return _uniform(self._streams[places].unsqueeze(1) + self._items)

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        return _uniform(self._streams[places] + self._items[columns])


def _mix(state: Tensor) -> Tensor:
    """One output of SplitMix64 for each state; int64 wraps around as uint64 does."""
    mixed = state * GOLDEN + GOLDEN
    for shift, factor in MIX:
        mixed = (mixed ^ _shifted(mixed, shift)) * factor
    return mixed ^ _shifted(mixed, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Bits moved right, zeros from the left."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _uniform(state: Tensor) -> Tensor:
    """The upper 24 bits, as many as a float32 below 1 holds."""
    return _shifted(_mix(state), 40).float() / 2**24
