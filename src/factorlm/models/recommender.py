"""The recommender: an embedding table, further fields, the history as a field, and a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from factorlm.data.fields import Side as SideName
from factorlm.encoders.base import CausalEncoder, HistoryEncoder, TargetEncoder
from factorlm.heads.base import DeepHead, Head, Side, SumHead, Terms
from factorlm.models.history import encode_histories, item_sequences
from factorlm.models.prompted import PromptTerms
from factorlm.models.table import Sums, Table, sums_of
from factorlm.scoring import Catalogue, Contexts, ProductCatalogue

CONTEXTS = 256  # encoded at once where no gradient is needed
PAIRS = 2048  # of context and item scored at once, at most
STEP = 64  # whole numbers of which are scored

Fields = Terms | Sums  # what the fields of a side yield: one by one, or their sums where the head needs no more


class User(NamedTuple):
    """The user side of C contexts, and for an encoder that looks at the scored item the history itself.

    Attributes:
        fields: what the user's fields yield, the encoded history among them; sums where the head needs no more.
        items: [C, L, W] vectors of the history's items, and ``lengths`` [C] of it; None without such an encoder.
    """

    fields: Fields
    items: Tensor | None = None
    lengths: Tensor | None = None

    def take(self, index: Tensor) -> User:
        """The contexts at places ``index``."""
        items, lengths = (None if part is None else part[index] for part in (self.items, self.lengths))
        return User(self.fields.take(index), items, lengths)

    def split(self, size: int) -> list[User]:
        """Parts of ``size`` contexts."""
        kind = type(self.fields)
        fields = [kind(*part) for part in zip(*(column.split(size) for column in self.fields), strict=True)]
        if self.items is None or self.lengths is None:
            return [User(part) for part in fields]
        return [User(*part) for part in zip(fields, self.items.split(size), self.lengths.split(size), strict=True)]


class Recommender(nn.Module):
    """Fields of two sides under a head. B rows, C contexts, I items, F fields, W width of a factor.

    Args:
        table: of the id, categorical and multi-hot fields.
        fields: of each side, the others: modules that map indices [B] to ``(linear [B], factor [B, W])``.
        encoder: of the history, the last field of the user; None: the history is not read.
        head: scores the fields.
        factor_l2: weight of the penalty on the factors of each training batch.
        prompt: of context and item, the user's last field but for the history; None: no language model is asked.
    """

    def __init__(
        self,
        table: Table,
        fields: Mapping[SideName, Mapping[str, nn.Module]],
        encoder: HistoryEncoder | None,
        head: Head,
        factor_l2: float,
        prompt: PromptTerms | None = None,
    ) -> None:
        super().__init__()
        self.table = table
        self.fields = nn.ModuleDict({side: nn.ModuleDict(modules) for side, modules in fields.items()})
        self.encoder = encoder
        self.prompt = prompt
        self.head = head
        self.factor_l2 = factor_l2

    @property
    def factorized(self) -> bool:
        """Whether scores are one matrix product."""
        of_pairs = isinstance(self.head, DeepHead) or isinstance(self.encoder, TargetEncoder)
        return not of_pairs and self.prompt is None

    @property
    def shares_histories(self) -> bool:
        """Whether training rows of one user in one batch cost one pass of the encoder."""
        return isinstance(self.encoder, CausalEncoder)

    def sides(self, contexts: Contexts, items: Tensor) -> tuple[User, Fields]:
        """What the fields of contexts [C] and item indices [I] yield; the table is read, and differentiated, once."""
        user, item = self._read(("user", contexts.users), ("item", items))
        return self._user(user, contexts), self._with_others(item, "item", items)

    def user_side(self, contexts: Contexts) -> User:
        """What the fields of contexts [C] yield."""
        return self._user(self._read(("user", contexts.users))[0], contexts)

    def item_side(self, items: Tensor) -> Fields:
        """What the fields of item indices [B] yield."""
        return self._with_others(self._read(("item", items))[0], "item", items)

    def pair_scores(self, user: User, item: Fields) -> Tensor:
        """Score context b against item b: [B]."""
        fields = self._seen_from(user, item)
        if isinstance(fields, Terms) and isinstance(item, Terms):
            scores: Tensor = self.head(*fields.join(item))
            return scores
        one, other = self._head_side(self.head.user_side, fields, self.head.bias), self._item_head_side(item)
        return one.bias + other.bias + (one.vectors * other.vectors).sum(1)

    def deep_scores(self, user: User, item: Fields) -> Tensor:
        """What a deep head adds to the product for context b and item b: [B]."""
        assert isinstance(self.head, DeepHead)
        assert isinstance(user.fields, Terms)
        assert isinstance(item, Terms)
        return self.head.deep(user.fields.join(item).factors)

    def cross_scores(self, user: User, item: Fields) -> Tensor:
        """Score every context against every item: [C, I]; one matrix product if the model is factorized.

        Otherwise pairs are scored again for their gradients, so that memory does not grow with their number.
        """
        if self.factorized:
            users, items = self.matrices(user, item)
            return users @ items.T
        size = max(PAIRS // len(item[0]), 1)
        if len(user.fields[0]) <= size:
            return self._all_pairs(user, item)
        return torch.cat([checkpoint(self._all_pairs, part, item, use_reentrant=False) for part in user.split(size)])

    def _all_pairs(self, user: User, item: Fields) -> Tensor:
        number, size = len(user.fields[0]), len(item[0])
        rows = torch.arange(number, device=item[0].device).repeat_interleave(size)
        columns = torch.arange(size, device=item[0].device).repeat(number)
        return self.pair_scores(user.take(rows), item.take(columns)).view(number, size)

    def matrices(self, user: User, item: Fields) -> tuple[Tensor, Tensor]:
        """Matrices [C, D + 2] and [I, D + 2] whose product is the scores, but for what a head adds pair by pair.

        The biases travel inside the product, as two more dimensions, so that no [C, I] matrix is made twice.
        """
        one = self._head_side(self.head.user_side, user.fields, self.head.bias)
        other = self._item_head_side(item)
        users = torch.cat([one.vectors, one.bias.unsqueeze(1), torch.ones_like(one.bias).unsqueeze(1)], 1)
        items = torch.cat([other.vectors, torch.ones_like(other.bias).unsqueeze(1), other.bias.unsqueeze(1)], 1)
        return users, items

    def penalty(self, user: User, item: Fields) -> Tensor:
        """``factor_l2`` times the mean squared norm of the factors of a batch, but for a target-aware history."""
        return self.factor_l2 * (_squares(user.fields).mean() + _squares(item).mean())

    def asked(self, user: User, contexts: Contexts, items: Tensor) -> User:
        """The user side of rows [B] with the prompt as one more field.

        Args:
            user: of B contexts.
            contexts, items: [n] of the first rows; the prompt of the last of them stands for those after it.
        """
        if self.prompt is None:
            return user
        assert isinstance(user.fields, Terms)
        linear, factor = self.prompt(contexts, items)
        rows = torch.arange(len(user.fields.linear), device=items.device).clamp(max=len(items) - 1)
        return user._replace(fields=user.fields.join(Terms(linear[rows, None], factor[rows, None])))

    def score(self, contexts: Contexts, items: Tensor) -> Tensor:
        """Score pairs of context and item index: [B]."""
        user, item = self.sides(contexts, items)
        return self.pair_scores(self.asked(user, contexts, items), item)

    def penalized(self, contexts: Contexts, items: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B] of pairs, and the penalty on their factors."""
        user, item = self.sides(contexts, items)
        user = self.asked(user, contexts, items)
        with torch.autocast(items.device.type, enabled=False):  # scores are float32 in mixed precision, too
            return self.pair_scores(user, item), self.penalty(user, item)

    def catalogue(self, contexts: Contexts, items: Tensor) -> Catalogue:
        """Encode contexts [V] and item indices [N] once, to score any of their pairs."""
        places = torch.arange(len(contexts), device=contexts.users.device)
        users = [self.user_side(contexts[part]) for part in places.split(CONTEXTS)]
        return RecommenderCatalogue(self, contexts, items, _joined(users), self.item_side(items))

    def _read(self, *parts: tuple[SideName, Tensor]) -> Sequence[Fields]:
        if isinstance(self.head, SumHead) and self.factorized:
            return self.table.sums(*parts, pairs=True)
        return self.table.terms(*parts)

    def _with_others(self, read: Fields, side: SideName, index: Tensor, *more: tuple[Tensor, Tensor]) -> Fields:
        """Add the fields that are not in the table."""
        terms = [*(field(index) for field in self.fields[side].values()), *more]  # type: ignore[operator]
        if not terms:
            return read
        linear, factors = zip(*terms, strict=True)
        others = Terms(torch.stack(linear, 1), torch.stack(factors, 1))
        if isinstance(read, Terms):
            return read.join(others)
        more_sums = sums_of(others, pairs=True)
        across = (read.factors * more_sums.factors).sum(1)
        return Sums(
            read.bias + more_sums.bias + across, read.factors + more_sums.factors, read.squares + more_sums.squares
        )

    def _user(self, read: Fields, contexts: Contexts) -> User:
        if isinstance(self.encoder, CausalEncoder):
            factor = encode_histories(self.encoder, contexts, self._item_vectors)
            return User(self._with_others(read, "user", contexts.users, (factor.new_zeros(len(factor)), factor)))
        fields = self._with_others(read, "user", contexts.users)
        if not isinstance(self.encoder, TargetEncoder):
            return User(fields)
        items, lengths = contexts.last(self.encoder.max_history_len)
        return User(fields, item_sequences(items, self._item_vectors), lengths)

    def _item_vectors(self, items: Tensor) -> Tensor:
        """The sum of the factors of each item [n, W]."""
        item = self.item_side(items)
        return item.factors if isinstance(item, Sums) else item.factors.sum(1)

    def _seen_from(self, user: User, item: Fields) -> Fields:
        """The user's fields, with the history as it looks from item b."""
        if user.items is None:
            return user.fields
        assert isinstance(self.encoder, TargetEncoder)
        assert isinstance(user.fields, Terms)
        factor = self.encoder(user.items, user.lengths, item.factors.sum(1)).unsqueeze(1)
        return user.fields.join(Terms(factor.new_zeros(len(factor), 1), factor))

    def _item_head_side(self, item: Fields) -> Side:
        return self._head_side(self.head.item_side, item, None)

    @staticmethod
    def _head_side(side: Callable[[Terms], Side], fields: Fields, bias: Tensor | None) -> Side:
        """A side of the score; of sums it is the sums themselves, the user's with the global bias."""
        if isinstance(fields, Terms):
            return side(fields)
        return Side(fields.bias if bias is None else fields.bias + bias, fields.factors)


class RecommenderCatalogue:
    """Encoded contexts [V] and items [N]; a pair's score is the same to the last bit, whatever is scored with it."""

    def __init__(self, model: Recommender, contexts: Contexts, items: Tensor, user: User, item: Fields) -> None:
        self._model, self._contexts, self._items, self._user, self._item = model, contexts, items, user, item
        self._product: ProductCatalogue | None = None
        if user.items is None and model.prompt is None:
            rows, columns = model.matrices(user, item)
            self._product = ProductCatalogue(rows.__getitem__, columns)

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N] of contexts, given by their places [U], against all items; without gradients."""
        if self._model.prompt is not None:
            size = len(self._items)
            columns = torch.arange(size, device=places.device).repeat(len(places))
            return self.pairs(places.repeat_interleave(size), columns).view(len(places), size)
        if self._product is None:
            return self._pairwise(places, self._model.pair_scores)
        scores = self._product.cross(places)
        if isinstance(self._model.head, DeepHead):
            scores += self._pairwise(places, self._model.deep_scores)
        return scores

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        parts = [(places[part], columns[part], size) for part, size in _parts(len(places), PAIRS)]
        return torch.cat([self._part(*part) for part in parts])

    def _part(self, places: Tensor, columns: Tensor, size: int) -> Tensor:
        """Scores of the first ``size`` pairs."""
        contexts, items = self._contexts[places[:size]], self._items[columns[:size]]
        user = self._model.asked(self._user.take(places), contexts, items)
        return self._model.pair_scores(user, self._item.take(columns))[:size]

    def _pairwise(self, places: Tensor, score: Callable[[User, Fields], Tensor]) -> Tensor:
        """Scores [U, N], context by context, in parts of equal shape."""
        number = len(self._item[0])
        size = min(PAIRS, number + -number % STEP)
        scores = self._item[0].new_empty(len(places), number)
        parts = [(self._item.take(part), int(part[0]), count) for part, count in _parts(number, size)]
        for row, place in enumerate(places):
            user = self._user.take(place.expand(size))
            for item, first, count in parts:
                scores[row, first : first + count] = score(user, item)[:count]
        return scores


def _parts(number: int, size: int) -> Iterator[tuple[Tensor, int]]:
    """Indices below ``number`` in parts of ``size``, the last filled up, and how many of each part count."""
    for start in range(0, number, size):
        yield torch.arange(start, start + size).clamp(max=number - 1), min(size, number - start)


def _squares(fields: Fields) -> Tensor:
    return fields.squares if isinstance(fields, Sums) else fields.factors.square().sum((1, 2))


def _joined(users: list[User]) -> User:
    """Contexts one after the other."""
    kind = type(users[0].fields)
    fields = kind(*(torch.cat(columns) for columns in zip(*(user.fields for user in users), strict=True)))
    items = [user.items for user in users if user.items is not None]
    if not items:
        return User(fields)
    longest = max(part.shape[1] for part in items)
    padded = [nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in items]
    return User(fields, torch.cat(padded), torch.cat([user.lengths for user in users if user.lengths is not None]))
