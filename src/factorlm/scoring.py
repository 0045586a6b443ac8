"""Who is asked, and the contract of all that answer. Shapes: C contexts, V of them in a task, N items, U and B some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

TILE = 64  # contexts in one matrix product of an evaluation
FEWEST = 16  # columns of a product


@dataclass(frozen=True)
class Rated:
    """What each context had before, liked or not: ``log[start:end]``, oldest first.

    Attributes:
        starts, ends: [C].
        log: [m] item indices, shared by all contexts.
        labels: [m] whether each was liked.
    """

    starts: Tensor
    ends: Tensor
    log: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Contexts:
    """Who is asked, and the positive interactions each had before.

    Attributes:
        users: [C] user index.
        starts, ends: [C]; the history is ``log[start:end]``, oldest first.
        log: [n] item indices, shared by all contexts.
        rated: the same with the negative interactions among them; None where the data have none.
    """

    users: Tensor
    starts: Tensor
    ends: Tensor
    log: Tensor
    rated: Rated | None = None

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: Tensor) -> Contexts:
        users, starts, ends = (part.index_select(0, index) for part in (self.users, self.starts, self.ends))
        rated = self.rated and replace(self.rated, starts=self.rated.starts[index], ends=self.rated.ends[index])
        return Contexts(users, starts, ends, self.log, rated)

    def to(self, device: torch.device) -> Contexts:
        """The same on another device."""
        rated = self.rated and Rated(*(part.to(device) for part in vars(self.rated).values()))
        users, starts, ends, log = (part.to(device) for part in (self.users, self.starts, self.ends, self.log))
        return Contexts(users, starts, ends, log, rated)

    def last(self, length: int) -> tuple[Tensor, Tensor]:
        """The latest items [C, L], at most ``length``, oldest first, padded with 0 on the right; and how many [C]."""
        lengths = (self.ends - self.starts).clamp(max=length)
        steps = torch.arange(int(lengths.amax()) if len(lengths) else 0, device=self.log.device)
        inside = steps < lengths.unsqueeze(1)
        place = ((self.ends - lengths).unsqueeze(1) + steps).masked_fill(~inside, 0)
        items = self.log[place] if len(self.log) else torch.zeros_like(place)
        return items.masked_fill(~inside, 0), lengths

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Place of the context and item of everything in the histories, oldest first: [h] each."""
        lengths = self.ends - self.starts
        places = torch.arange(len(self), device=self.log.device).repeat_interleave(lengths)
        first = (self.starts + lengths - lengths.cumsum(0)).index_select(0, places)
        return places, self.log.index_select(0, first + torch.arange(len(places), device=self.log.device))


class Catalogue(Protocol):
    """Contexts [V] and items [N] whose sides of the score are computed once.

    The score of a pair does not depend, to the last bit, on what is scored together with it.
    """

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N] of contexts, given by their places [U] among the V, against all items."""
        ...

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B] among the V and N."""
        ...


class Scorer(Protocol):
    """What can be evaluated: a `Recommender` or a baseline."""

    def catalogue(self, contexts: Contexts, items: Tensor) -> Catalogue:
        """Fix contexts [V] and item indices [N]."""
        ...


class ProductCatalogue:
    """Scores that are a product of rows and columns.

    Args:
        rows: places [U] of contexts to their vectors [U, D].
        columns: [N, D] of the items.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor], columns: Tensor) -> None:
        self._rows, self._columns = rows, columns

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N]; without gradients."""
        return tiled(self._rows, self._columns, places)

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs."""
        return torch.cat([
            (self._rows(places[start : start + TILE]) * self._columns[columns[start : start + TILE]]).sum(1)
            for start in range(0, len(places), TILE)
        ])  # fmt: skip


def tiled(rows: Callable[[Tensor], Tensor], columns: Tensor, places: Tensor) -> Tensor:
    """``rows(places) @ columns.T`` [U, N].

    Products of equal shape add up in equal order, so all have ``TILE`` rows, and few columns are filled up: a product
    with 8 or less is rounded by the place of its row.
    """
    size = len(columns)
    if size < FEWEST:
        columns = nn.functional.pad(columns, (0, 0, 0, FEWEST - size))
    scores = columns.new_empty(len(places) + -len(places) % TILE, len(columns))
    for start in range(0, len(places), TILE):
        tile = rows(places[start : start + TILE])
        tile = nn.functional.pad(tile, (0, 0, 0, TILE - len(tile)))
        torch.mm(tile, columns.T, out=scores[start : start + TILE])
    return scores[: len(places), :size]
