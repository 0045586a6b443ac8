"""A Bayesian factorization machine. Shapes: U users, I items, K factors, S samples, C contexts, N candidates."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from factorlm.backbones.prompting import PromptScorer
from factorlm.baselines.base import Baseline, TrainingData
from factorlm.baselines.gibbs import Columns, GibbsSampler, Half
from factorlm.data.fields import CodedField, EncodedField, MultiHotField, NumericField, Side
from factorlm.errors import UserError
from factorlm.scoring import Contexts

Implicit = Literal["none", "user", "item", "both"]
Samples = npt.NDArray[np.float32]

HALF_ROOT = math.sqrt(0.5)
LEAST = 1e-12  # probabilities below count as this in a logit


class BayesianFM(Baseline):
    r"""A factorization machine with a probit link, averaged over its posterior by Gibbs sampling.

    .. math:: P(y = 1) = \frac1S \sum_s \Phi\Big(b + \sum_j w_j x_j + \sum_{j < k} \langle v_j, v_k \rangle x_j x_k\Big)

    over S samples of (b, w, v) given the labelled rows; the score is the logit of P. Each field is a group of columns
    with a Gaussian prior for w and one for each of the K numbers of v, whose means and precisions are sampled as well.
    C. Freudenthaler, L. Schmidt-Thieme and S. Rendle, Bayesian factorization machines, NIPS 2011 workshop; probit by
    augmentation: J. H. Albert and S. Chib, JASA 88(422), 1993.

    A category without a training row is drawn from its field's prior, which integrates over what it may be.

    ``implicit`` adds a field of the items that a user has training rows of, whatever their label, and likewise of the
    users of an item, each of n with the input :math:`1/\sqrt n`: S. Rendle, L. Zhang and Y. Koren, On the difficulty of
    evaluating baselines, arXiv 1905.01395, 2019. It takes over much of what ids and side fields would say, so cold
    users or items are better off without; and a training row counts itself, as a new row does not, which costs
    calibration where users have few rows.

    With a backbone the principal components of the item texts are one more group of columns. So an item's effects are
    shrunk towards what its text predicts, by precisions that the chain samples: an item without rows gets the text's
    estimate, one with many its own.

    With a prompt (a field of the kind ``prompt``) the score of a language model asked about the row, and principal
    components of its state, are columns of the row itself, with linear weights. They are read of ``shots`` training
    rows, and count as their mean in the others.

    Args:
        num_factors: K.
        iterations: of the chain, each a draw of every parameter.
        burn_in: first iterations that are not kept.
        samples: S, kept at even distance from the iterations after; memory is 4 (U + I) (K + 1) S bytes.
        implicit: the sides with a field of rows: ``none``, ``user``, ``item`` or ``both``.
        text_components: of the item texts, at most; read with a backbone only.
        prompt_components: of the states of prompts, at most; read with a prompt only.
    """

    logits = True
    reads_texts = True
    reads_prompts = True
    user_samples: Tensor
    item_samples: Tensor
    row_samples: Tensor
    prompt_mean: Tensor
    prompt_axes: Tensor

    def __init__(
        self,
        num_factors: int,
        iterations: int,
        burn_in: int,
        samples: int,
        implicit: Implicit,
        text_components: int,
        prompt_components: int,
    ) -> None:
        super().__init__()
        for key, value in (
            ("num_factors", num_factors),
            ("samples", samples),
            ("text_components", text_components),
            ("prompt_components", prompt_components),
        ):
            if value < 1:
                raise UserError(f"baseline.{key}={value}: it must be 1 or more")
        if not 0 <= burn_in <= iterations - samples:
            room = iterations - samples
            raise UserError(
                f"baseline.burn_in={burn_in}: {iterations} iterations and {samples} samples allow 0 to {room}"
            )
        if implicit not in get_args(Implicit):
            raise UserError(f"baseline.implicit={implicit}: it must be one of {', '.join(get_args(Implicit))}")
        self._num_factors, self._samples, self._implicit = num_factors, samples, implicit
        self._text_components, self._prompt_components = text_components, prompt_components
        self.scorer: PromptScorer | None = None
        self._kept = {burn_in + (iterations - burn_in) * (s + 1) // samples - 1 for s in range(samples)}
        for name in ("user_samples", "item_samples", "row_samples", "prompt_mean", "prompt_axes"):
            self.register_buffer(name, torch.zeros(0))

    def fit(self, data: TrainingData) -> None:
        """Run the chain, seeded by the run.

        Raises:
            UserError: there is no negative row, or a field of text.
        """
        if data.labels.all():
            raise UserError(
                f"baseline=bayesian_fm needs negatives, and the labels of all {len(data.labels)} training rows are "
                "positive: set task=pointwise, with dataset.negatives=keep"
            )
        rng = np.random.default_rng(data.seed)
        columns = self._columns(data)
        sampler = GibbsSampler(data.labels.numpy(), self._half(data, "user"), self._half(data, "item"), columns, rng)
        users, items = (
            np.empty((size, 1 + self._num_factors, self._samples), np.float32)
            for size in (data.num_users, data.num_items)
        )
        rows = np.empty((len(columns.weights), self._samples), np.float32)
        place = 0
        for iteration in range(max(self._kept) + 1):
            sampler.step()
            if iteration in self._kept:
                users[..., place], items[..., place], rows[:, place] = (vectors.T for vectors in sampler.sample())
                place += 1
        self.user_samples, self.item_samples, self.row_samples = map(torch.from_numpy, (users, items, rows))

    def catalogue(self, contexts: Contexts, items: Tensor) -> SampleCatalogue:
        """Fix contexts [C] and candidates [N]; histories play no part but in prompts."""
        return SampleCatalogue(self, contexts, items)

    def row_terms(self, contexts: Contexts, items: Tensor) -> Tensor:
        """What the columns of rows [n], contexts and items, add to each sample: [n, S]."""
        if self.scorer is None:
            return torch.zeros(len(items), self._samples)
        return self._inputs(self.scorer.features(contexts, items)).float() @ self.row_samples

    def _columns(self, data: TrainingData) -> Columns:
        """Score and components of the prompts of the training rows; no columns without."""
        if data.prompts is None:
            return Columns(np.empty((len(data.labels), 0)), np.empty(0, np.int64))
        asked, self.scorer = data.prompts, data.prompts.scorer
        features = self.scorer.features(asked.contexts, data.items[asked.rows])
        deviation, mean = torch.std_mean(features[:, :1].double(), 0, correction=0)
        center, axes = _axes(features[:, 1:], self._prompt_components)
        self.prompt_mean = torch.cat([mean, center])
        self.prompt_axes = torch.block_diag(deviation.clamp(min=1e-9).reciprocal().unsqueeze(0), axes)
        inputs = torch.zeros(len(data.labels), self.prompt_axes.shape[1], dtype=torch.float64)
        inputs[asked.rows] = self._inputs(features)
        groups = np.minimum(np.arange(inputs.shape[1]), 1)  # the score, and the components
        return Columns(inputs.numpy(), groups)

    def _inputs(self, features: Tensor) -> Tensor:
        """Columns [n, P] of features [n, 1 + H]."""
        return (features.double() - self.prompt_mean) @ self.prompt_axes

    def _half(self, data: TrainingData, side: Side) -> Half:
        """The columns of one side, field after field."""
        rows, other, size, num_other = data.users, data.items, data.num_users, data.num_items
        if side == "item":
            rows, other, size, num_other = other, rows, num_other, size
        blocks = [_columns(name, field) for name, field in data.fields.items() if data.specs[name].side == side]
        if self._implicit in (side, "both"):
            blocks.append(_implicit(rows, other, size, num_other))
        if side == "item" and data.item_vectors is not None:
            blocks.append(_components(data.item_vectors, rows.unique(), self._text_components))
        groups = np.repeat(np.arange(len(blocks)), np.array([block.shape[1] for block in blocks], np.int64))
        design = sp.csc_array(sp.hstack([sp.csc_array((size, 0)), *blocks]))
        return Half(rows.numpy(), design, groups, self._num_factors)


class SampleCatalogue:
    """Logits of the mean probability over samples, of contexts [V] and candidates [N]."""

    def __init__(self, model: BayesianFM, contexts: Contexts, items: Tensor) -> None:
        self._model, self._contexts, self._items = model, contexts, items

    def cross(self, places: Tensor) -> Tensor:
        """Scores [U, N] of contexts, given by their places [U], against all items."""
        columns = torch.arange(len(self._items))
        scores = torch.empty(len(places), len(columns))
        for row, place in enumerate(places):
            scores[row] = self.pairs(place.expand(len(columns)), columns)
        return scores

    def pairs(self, places: Tensor, columns: Tensor) -> Tensor:
        """Scores [B] of pairs, given by their places [B]."""
        contexts, items, model = self._contexts[places], self._items[columns], self._model
        samples = model.user_samples.numpy(), model.item_samples.numpy(), model.row_terms(contexts, items).numpy()
        return torch.from_numpy(mean_logits(*samples, contexts.users.numpy(), items.numpy()))


@numba.njit(cache=True)
def mean_logits(
    user_samples: Samples,
    item_samples: Samples,
    row_terms: Samples,
    users: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
) -> Samples:
    """Logit of the mean over samples of the normal distribution function of each pair's score: [B].

    Args:
        user_samples, item_samples: [U, 1 + K, S] and [I, 1 + K, S]; see `GibbsSampler.sample`.
        row_terms: [B, S], added to the scores.
        users, items: [B].
    """
    size, num_samples = user_samples.shape[1:]
    logits, scores = np.empty(users.size, np.float32), np.empty(num_samples, np.float32)
    least = 2.0 * num_samples * LEAST
    for pair in range(users.size):
        user, item = user_samples[users[pair]], item_samples[items[pair]]
        scores[:] = user[0] + item[0] + row_terms[pair]
        for k in range(1, size):
            for s in range(num_samples):
                scores[s] += user[k, s] * item[k, s]
        positive, negative = 0.0, 0.0
        for s in range(num_samples):
            beyond = math.erfc(scores[s] * HALF_ROOT)  # twice the share of negatives
            positive += 2.0 - beyond
            negative += beyond
        logits[pair] = math.log(max(positive, least) / max(negative, least))
    return logits


def _columns(name: str, field: EncodedField) -> sp.csc_array:
    """The inputs of a field [N, P]."""
    if isinstance(field, CodedField):
        size = len(field.codes)
        return sp.csc_array((np.ones(size), (np.arange(size), field.codes)), shape=(size, field.num_codes))
    if isinstance(field, MultiHotField):
        rows, slots = field.weights.nonzero()
        entries = field.weights[rows, slots].astype(np.float64), (rows, field.codes[rows, slots])
        return sp.csc_array(entries, shape=(len(field.codes), field.num_codes))
    if isinstance(field, NumericField):
        return sp.csc_array(field.values.astype(np.float64)[:, None])
    raise UserError(f"fields.{name}: baseline=bayesian_fm reads no text; remove the field")


def _components(vectors: Tensor, known: Tensor, number: int) -> sp.csc_array:
    """Principal components over the known items, of unit mean square in all: [N, P]."""
    mean, axes = _axes(vectors[known], number)
    return sp.csc_array(((vectors.double() - mean) @ axes).numpy())


def _axes(vectors: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Mean [H] and scaled principal axes [H, P]: components along them are of unit mean square in all."""
    mean = vectors.double().mean(0)
    centred = vectors.double() - mean
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:number].T
    return mean, axes / (centred @ axes).square().sum(1).mean().sqrt()


def _implicit(rows: Tensor, other: Tensor, size: int, num_other: int) -> sp.csc_array:
    """1 / sqrt(n) for each of the n others that a user or item has rows of: [N, P]."""
    met = sp.coo_array((np.ones(len(rows)), (rows.numpy(), other.numpy())), shape=(size, num_other)).tocsr()
    counts = np.diff(met.indptr)
    met.data = np.repeat(counts, counts) ** -0.5
    return sp.csc_array(met)
