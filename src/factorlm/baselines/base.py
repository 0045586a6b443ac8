"""What a baseline is fitted on and what it answers. Shapes: n rows, U users, I items, C contexts, N candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from factorlm.backbones.prompting import PromptScorer
from factorlm.data.fields import EncodedField, FieldSpec
from factorlm.scoring import Catalogue, Contexts


@dataclass(frozen=True)
class PromptedRows:
    """Training rows that a language model is asked about.

    Attributes:
        scorer: of the prompts.
        rows: [m], ascending.
        contexts: [m] of these rows.
    """

    scorer: PromptScorer
    rows: Tensor
    contexts: Contexts


@dataclass(frozen=True)
class Validated:
    """What K models say of rows that none was trained on.

    Attributes:
        scores: [m, K] logits.
        labels: [m], true for a positive.
    """

    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrainingData:
    """Training rows in the order of their source.

    Attributes:
        users, items: [n] indices.
        labels: [n], true for a positive.
        timestamps: [n] seconds.
        num_users, num_items: U and I; some of them may have no training row.
        seed: of the run.
        item_vectors: [I, H] text vector of each item by the config's backbone; None without one.
        specs, fields: the config's fields, by name, and their values for each user or item.
        prompts: of some rows; None: no language model is asked.
        validated: what the models of a stack say of the rows of validation; None but for a stack.
    """

    users: Tensor
    items: Tensor
    labels: Tensor
    timestamps: Tensor
    num_users: int
    num_items: int
    seed: int
    item_vectors: Tensor | None
    specs: Mapping[str, FieldSpec]
    fields: Mapping[str, EncodedField]
    prompts: PromptedRows | None = None
    validated: Validated | None = None


class Baseline(nn.Module, ABC):
    """A scorer fitted at once, without epochs.

    What `fit` finds is kept in persistent buffers, empty before it, so that a checkpoint holds it. Histories come from
    the contexts that are asked, not from the training rows, wherever the method allows it: the same fitted model then
    answers with a longer history, too.

    Attributes:
        logits: whether scores are logits, so that the baseline may serve ``task=pointwise``.
        reads_texts: whether it reads the text vectors of a backbone.
        reads_prompts: whether it reads prompts.
    """

    logits: ClassVar[bool] = False
    reads_texts: ClassVar[bool] = False
    reads_prompts: ClassVar[bool] = False

    @abstractmethod
    def fit(self, data: TrainingData) -> None:
        """Learn from training rows."""

    @abstractmethod
    def catalogue(self, contexts: Contexts, items: Tensor) -> Catalogue:
        """Fix contexts [C] and candidates [N], item indices."""
