"""The torchmetrics shells of the ranking metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from factorlm.errors import UserError
from factorlm.metrics import accuracy, beyond
from factorlm.metrics.per_user import PerUserMetric
from factorlm.metrics.ranks import Top


class RankingMetrics(PerUserMetric):
    """Accuracy of full rankings at cut-offs; `factorlm.metrics.accuracy` defines each.

    Args:
        ks: cut-offs.
        max_grade: highest rating: adds ``rated_ndcg`` and ``err``; None: ratings are ignored.
        diversity: item column whose values say how alike two items are: adds ``diversity`` to what an evaluation
            reports; None: it is left out.
        slices: item columns; an evaluation also reports accuracy for the positives with each of their values. Beside
            columns there is ``train_interactions``: how many of them an item has, in four bins.
    """

    ks: list[int]
    slices: list[str]

    def __init__(
        self,
        ks: Sequence[int],
        max_grade: float | None = None,
        diversity: str | None = None,
        slices: Sequence[str] = (),
    ) -> None:
        if not ks or min(ks) < 1:
            raise UserError(f"metrics.ks={list(ks)}: give cut-offs of 1 or more")
        self.ks, self.slices = [int(k) for k in ks], list(slices)
        super().__init__(accuracy.ranking_names(self.ks, max_grade))
        self.max_grade = max_grade
        self.diversity = diversity

    @property
    def definitions(self) -> list[str]:
        """Each name with the version of its definition, as in ``ndcg@10 v1`` or ``err@10 v1 max 5``.

        They are a part of the protocol; what beyond-accuracy metrics and slices add comes from the evaluation.
        """
        return [f"{name} v{accuracy.VERSIONS[name.partition('@')[0]]}{self._scale(name)}" for name in self.names]

    def _scale(self, name: str) -> str:
        return f" max {self.max_grade:g}" if name.startswith("err@") else ""

    def update(
        self,
        queries: Tensor,
        users: Tensor,
        scores: Tensor,
        rows: Tensor,
        columns: Tensor,
        grades: Tensor | None = None,
        top: Top | None = None,
    ) -> None:
        """Add a batch of U questions.

        Args:
            queries, users: [U] number of each question, and its user.
            scores: [U, N] of the candidates, -inf where excluded.
            rows, columns: [P] position of each positive in ``scores``; column -1: it is no candidate.
            grades: [P] ratings of the positives.
            top: of the scores, at least as deep as the largest cut-off; None: it is found here.
        """
        if grades is not None:
            self.check_grades(grades)
        values = accuracy.ranking_values(
            scores, rows, columns, self.ks, max_grade=self.max_grade, grades=grades, top=top
        )
        self._add(queries, users, values)

    def check_grades(self, grades: Tensor) -> None:
        """Refuse ratings [P] that are no grades from above 0 to the highest.

        Raises:
            UserError: there is one.
        """
        if self.max_grade is None or not len(grades):
            return
        if grades.max() > self.max_grade:
            raise UserError(f"metrics.max_grade={self.max_grade:g}: there is a rating of {grades.max():g}; raise it")
        if grades.min() <= 0:
            raise UserError(
                f"metrics.max_grade={self.max_grade:g}: there is a rating of {grades.min():g}, and grades are above 0; "
                "raise dataset.min_value, or set metrics.max_grade=null"
            )


class BeyondMetrics(PerUserMetric):
    """What lists are made of, at cut-offs; `factorlm.metrics.beyond` defines each.

    ``novelty``, ``popularity`` and ``diversity`` are means over users; ``coverage`` and ``gini`` belong to all lists
    together.

    Args:
        ks: cut-offs.
        items: [N] number of each candidate.
        share: [N] of training users who have it, above 0.
        features: [N, H] of the candidates for ``diversity``, rows of length 1; None: it is left out.
    """

    exposure: Tensor
    absence: Tensor

    def __init__(self, ks: Sequence[int], items: Tensor, share: Tensor, features: Tensor | None, **kwargs: Any) -> None:
        kinds = ("novelty", "popularity", *(("diversity",) if features is not None else ()))
        super().__init__([f"{name}@{k}" for k in ks for name in kinds], **kwargs)
        self.ks, self._items, self._share, self._features = list(ks), items, share, features
        for state in ("exposure", "absence"):
            zero = torch.zeros(len(self.ks), len(share), dtype=torch.float64)
            self.add_state(state, default=zero, dist_reduce_fx="sum")

    def update(self, queries: Tensor, users: Tensor, scores: Tensor, top: Top) -> None:
        """Add a batch of U questions: their numbers, users, ``scores`` [U, N] and the top of them."""
        values = []
        for index, k in enumerate(self.ks):
            lists = beyond.make_lists(scores, top, k, self._items)
            self.exposure[index] += beyond.exposure(lists)
            self.absence[index] += beyond.absence(lists)
            values += [beyond.novelty(lists, self._share), beyond.popularity(lists, self._share)]
            if self._features is not None:
                values.append(beyond.diversity(lists, self._features))
        self._add(queries, users, torch.stack(values, 1))

    def compute(self) -> dict[str, float]:
        """Means over users, and ``coverage@k`` and ``gini@k``."""
        whole = {}
        for index, k in enumerate(self.ks):
            whole[f"coverage@{k}"] = float(beyond.coverage(self.absence[index]))
            whole[f"gini@{k}"] = float(beyond.gini(self.exposure[index]))
        return super().compute() | whole
