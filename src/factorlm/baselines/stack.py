"""One score of several finished models. Shapes: n rows, K models, C contexts, N candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from factorlm.baselines.base import Baseline, TrainingData
from factorlm.errors import UserError
from factorlm.scoring import Catalogue, Contexts, Scorer


class Stack(Baseline):
    r"""A logistic regression over the logits of finished runs.

    .. math:: \mathrm{logit}\, P(y = 1) = b + \sum_k w_k s_k

    D. Wolpert, Stacked generalization, Neural Networks 5(2), 1992. The K + 1 numbers are fitted on the rows of
    validation, which none of the models was trained on; so validation flatters a stack, and only test compares it.

    Args:
        runs: folders of finished runs with ``task=pointwise`` on the same rows; their order is that of the weights.
    """

    logits = True
    weights: Tensor
    offset: Tensor

    def __init__(self, runs: Sequence[str]) -> None:
        super().__init__()
        if len(set(runs)) < 2:
            raise UserError(f"baseline.runs={list(runs)}: a stack takes two finished runs or more")
        self.runs = list(runs)
        self.models: list[Scorer] = []  # of the runs; not of this module: each has a checkpoint of its own
        self.register_buffer("weights", torch.zeros(len(self.runs), dtype=torch.float64))
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))

    def fit(self, data: TrainingData) -> None:
        """Weigh the models by what they say of rows that none has seen."""
        from scipy.optimize import minimize  # a tenth of a second at every start

        assert data.validated is not None
        values, positive = data.validated.scores.double().numpy(), data.validated.labels.double().numpy()
        mean, deviation = values.mean(0), np.maximum(values.std(0), 1e-6)
        inputs = np.column_stack([(values - mean) / deviation, np.ones(len(values))])

        def loss(parameters: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, object]:
            logits = inputs @ parameters
            error = 1 / (1 + np.exp(-logits)) - positive
            return float((np.logaddexp(0, logits) - positive * logits).mean()), inputs.T @ error / len(error)

        found = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-8}).x
        self.weights = torch.from_numpy(found[:-1] / deviation)
        self.offset = torch.tensor(found[-1] - self.weights.numpy() @ mean)

    def catalogue(self, contexts: Contexts, items: Tensor) -> StackCatalogue:
        """Fix contexts [C] and candidates [N] for each model."""
        return StackCatalogue(self, [model.catalogue(contexts, items) for model in self.models])


class StackCatalogue:
    """The weighted sum of what several models say of the same contexts and candidates."""

    def __init__(self, model: Stack, catalogues: Sequence[Catalogue]) -> None:
        self._model, self._catalogues = model, catalogues

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N] of contexts, given by their places [U], against all items."""
        return self._sum([catalogue.cross(places) for catalogue in self._catalogues])

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        return self._sum([catalogue.pairs(places, columns) for catalogue in self._catalogues])

    def _sum(self, scores: Sequence[Tensor]) -> Tensor:
        total = self._model.offset
        for weight, score in zip(self._model.weights, scores, strict=True):
            total = total + weight * score
        return total
