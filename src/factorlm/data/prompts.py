"""Prompts: what a language model is told of a user and asked of an item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from factorlm.data.tables import rendered
from factorlm.errors import UserError

Order = Literal["oldest_first", "latest_first"]
VECTORS = {"{user_vector}": "\ue000", "{item_vector}": "\ue001"}  # what stands for a vector while a text is written


@dataclass(frozen=True)
class PromptTemplate:
    """``instruction``, then ``liked`` for each liked item of the history, then ``target``; the answer is one word.

    With ``disliked`` the items that the user did not like follow, after ``between``. K. Bao et al., TALLRec, RecSys
    2023, section 3.2. A prompt is made of what a user had before the row and of the asked item, and of nothing else: it
    has no way to the row itself or to a later one.

    Args:
        instruction: what every prompt begins with.
        nothing: what stands for a list that is empty.
        liked: how a liked item is written, over the columns of the items table, as in ``"\\n- {title}"``.
        between: what stands between the two lists.
        disliked: how an item is written that the user did not like; None: such items are left out.
        target: how the asked item is written, and the question; ``{user_vector}`` and ``{item_vector}`` are places of
            vectors, which soft tokens fill.
        order: of the history: ``oldest_first``, so that the latest item stands next to the question, or
            ``latest_first``.
        max_history_tokens: the latest items whose tokens fit are written, liked or not; older ones are left out.
        positive, negative: forms of either answer, of which the first token counts.
    """

    instruction: str
    nothing: str
    liked: str
    between: str
    disliked: str | None
    target: str
    order: Order
    max_history_tokens: int
    positive: Sequence[str]
    negative: Sequence[str]

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise UserError(f"prompt.order={self.order}: it must be one of {', '.join(get_args(Order))}")
        if self.max_history_tokens < 0:
            raise UserError(f"prompt.max_history_tokens={self.max_history_tokens}: it must be 0 or more")
        if not self.instruction.strip():
            raise UserError("prompt.instruction is empty: say what the model is to do")
        for key, words in (("positive", self.positive), ("negative", self.negative)):
            if not words or not all(words):
                raise UserError(f"prompt.{key}={list(words)}: name at least one form of the answer")

    @property
    def version(self) -> str:
        """Hash of the template: records of equal versions asked in the same words."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def reads_vectors(self) -> bool:
        """Whether prompts have places of vectors."""
        return any(name in self.target for name in VECTORS)

    def write(self, items: pl.DataFrame) -> tuple[list[str], list[str], list[str]]:
        """Each item of the table as a liked one, as one that was not (empty where they are left out), as the target.

        In the places of vectors stand marks.

        Raises:
            UserError: the template names a column that the table has not.
        """
        target = self.target
        for name, mark in VECTORS.items():
            target = target.replace(name, mark)
        disliked = [] if self.disliked is None else rendered(items, self.disliked, "prompt.disliked")
        return rendered(items, self.liked, "prompt.liked"), disliked, rendered(items, target, "prompt.target")

    def written(self, lengths: Sequence[int]) -> list[int]:
        """Places in a history of what is written of it, in the order of writing.

        Args:
            lengths: tokens of each item of the history, oldest first.
        """
        kept: list[int] = []
        left = self.max_history_tokens
        for place in reversed(range(len(lengths))):
            left -= lengths[place]
            if left < 0:
                break
            kept.append(place)
        return kept if self.order == "latest_first" else kept[::-1]


def few_shots(labels: npt.NDArray[np.bool_], shots: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Training rows that are used: half of each label, drawn by seed, or with None all; ascending.

    The rows of a smaller number are among those of a larger one.

    Raises:
        UserError: the number is odd or too large.
    """
    if shots is None:
        return np.arange(len(labels))
    classes = [np.flatnonzero(labels == label) for label in (False, True)]
    most = 2 * min(map(len, classes))
    if shots < 2 or shots % 2 or shots > most:
        raise UserError(f"shots={shots}: half of each label is drawn, so give an even number from 2 to {most}")
    drawn = [np.random.default_rng([seed, label]).permutation(rows)[: shots // 2] for label, rows in enumerate(classes)]
    return np.sort(np.concatenate(drawn))
