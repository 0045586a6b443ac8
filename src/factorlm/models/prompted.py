"""A language model asked about each row, as a recommender or as a field of one.

Shapes: V contexts, N items, n rows, H hidden size, K factors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from factorlm.backbones.prompting import PromptScorer
from factorlm.scoring import Contexts

FLATTEST = 0.01  # the least deviation of logits over the rows of a calibration: it never turns the order around


class Prompted(nn.Module):
    r"""Logits of labelled rows by a prompt scorer, calibrated.

    .. math:: \operatorname{logit} = a s + b + \log \frac{\pi}{1 - \pi}

    s is the score of the prompt, a and b are fitted on rows with as many positives as negatives, and the last term
    brings them to the share of positives in training (G. King and L. Zeng, Logistic regression in rare events data,
    2001). They change no order of rows.

    Args:
        scorer: of the prompts.
        balanced: whether training rows are drawn with as many positives as negatives.
    """

    scale: Tensor
    offset: Tensor
    prior: Tensor
    shares_histories = False

    def __init__(self, scorer: PromptScorer, *, balanced: bool) -> None:
        super().__init__()
        self.scorer = scorer
        self._balanced = balanced
        for name, value in (("scale", 1.0), ("offset", 0.0), ("prior", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    @torch.no_grad()
    def calibrate(
        self, contexts: Contexts, items: Tensor, labels: Tensor, share: float, scale: float | None = None
    ) -> None:
        """Fit scale and offset.

        Args:
            contexts, items, labels: [n] rows, half of each label.
            share: of positives in training.
            scale: a value that stays, as for a model that is tuned and finds its own; None: it is fitted.
        """
        scores = self.scorer(self.scorer.read(contexts, items))
        self.scale, self.offset = (torch.tensor(value) for value in platt(scores, labels, scale))
        self.prior = torch.tensor(share).logit()

    def penalized(self, contexts: Contexts, items: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n] of training rows at the share of positives they are drawn with, and no penalty."""
        logits = self._logits(self.scorer.trained(contexts, items))
        return logits - self.prior * self._balanced, logits.new_zeros(())

    def catalogue(self, contexts: Contexts, items: Tensor) -> PromptCatalogue:
        """Fix contexts [V] and item indices [N]."""
        return PromptCatalogue(self, contexts, items)

    def score(self, contexts: Contexts, items: Tensor) -> Tensor:
        """Logits [n] without gradients."""
        return self._logits(self.scorer.read(contexts, items))

    def _logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.scorer(states) + self.offset + self.prior
        return logits


class PromptCatalogue:
    """Contexts [V] and items [N], any pair of which can be put into a prompt."""

    def __init__(self, model: Prompted, contexts: Contexts, items: Tensor) -> None:
        self._model, self._contexts, self._items = model, contexts, items

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N] of contexts, given by their places [U], against all items: one prompt for each."""
        size = len(self._items)
        pairs = self.pairs(places.repeat_interleave(size), torch.arange(size, device=places.device).repeat(len(places)))
        return pairs.view(len(places), size)

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        return self._model.score(self._contexts[places], self._items[columns])


class PromptTerms(nn.Module):
    r"""The prompt of a context and an item as a field of the pair.

    .. math:: w = \langle a, x \rangle, \quad v = B x, \quad x = \Big(\frac{s - \mu}{\sigma},
        \frac{h - \mu}{\sigma H}\Big)

    s is the score of the prompt and h the state of its last token. As a text's, the state is divided by its length.

    Args:
        scorer: of the prompts.
        features: [n, 1 + H] of training rows, for their mean and deviation.
        num_factors: K.
        init_std: deviation of the initial factors.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, scorer: PromptScorer, features: Tensor, num_factors: int, init_std: float) -> None:
        super().__init__()
        self.scorer = scorer
        size = features.shape[1]
        deviation, mean = torch.std_mean(features, 0, correction=0)
        lengths = torch.full((size,), float(size - 1))
        lengths[0] = 1.0
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", torch.where(deviation > 1e-6, deviation, 1.0) * lengths)
        self.weight = nn.Linear(size, 1, bias=False)
        self.factor = nn.Linear(size, num_factors, bias=False)
        nn.init.zeros_(self.weight.weight)
        nn.init.normal_(self.factor.weight, std=init_std)
        with torch.no_grad():
            self.factor.weight[:, 1:] *= (size - 1) ** 0.5

    def forward(self, contexts: Contexts, items: Tensor) -> tuple[Tensor, Tensor]:
        """Linear term [n] and factor [n, K] of each context and item."""
        features = (self.scorer.features(contexts, items) - self.mean) / self.deviation
        with torch.autocast(features.device.type, enabled=False):
            return self.weight(features).squeeze(-1), self.factor(features)


def platt(scores: Tensor, labels: Tensor, scale: float | None = None) -> tuple[float, float]:
    """Scale and offset of logits a s + b with the least log loss, a above 0.

    J. Platt, Probabilistic outputs for support vector machines, 1999: labels are moved inwards as if each class had one
    more row of either label, so that few or separable rows give no certainty.

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        scale: a, where only b is fitted.
    """
    from scipy.optimize import minimize  # a tenth of a second at every start

    values, positive = scores.double().cpu().numpy(), labels.cpu().numpy() > 0
    mean, deviation = values.mean(), max(values.std(), 1e-6)
    standard = (values - mean) / deviation
    counts = np.array([(~positive).sum(), positive.sum()])
    wanted = np.where(positive, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))

    def loss(parameters: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, list[float]]:
        logits = parameters[0] * standard + parameters[1]
        error = 1 / (1 + np.exp(-logits)) - wanted
        return float((np.logaddexp(0, logits) - wanted * logits).sum()), [float(error @ standard), float(error.sum())]

    bounds = (FLATTEST, None) if scale is None else (scale * deviation, scale * deviation)
    found = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=[bounds, (None, None)]).x
    return float(found[0] / deviation), float(found[1] - found[0] * mean / deviation)
