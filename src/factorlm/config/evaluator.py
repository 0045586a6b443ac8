"""From a checked config and prepared data to an evaluation."""

from __future__ import annotations

from typing import TypeAlias

from omegaconf import DictConfig

from factorlm.config.build import make
from factorlm.data.prepared import Prepared
from factorlm.errors import UserError
from factorlm.evaluation.candidates import Full
from factorlm.evaluation.pointwise import PointwiseEvaluator
from factorlm.evaluation.ranking import RankingEvaluator
from factorlm.metrics.pointwise import PointwiseMetrics
from factorlm.metrics.ranking import RankingMetrics
from factorlm.objectives.logloss import LogLoss

Evaluator: TypeAlias = RankingEvaluator | PointwiseEvaluator


def selection_metric(config: DictConfig) -> str:
    """Name of the validation metric that weights, and points of a sweep, are chosen by."""
    return f"valid/{config.selection}{make(config.candidates).suffix}"


def make_evaluator(config: DictConfig, prepared: Prepared, threshold: float | None = None) -> Evaluator:
    """The evaluation of a config; labelled rows of test take a ``threshold`` that is known, or find it on valid.

    Raises:
        UserError: task, metrics, objective, candidates and selection do not go together, or the data do not fit them.
    """
    metrics, candidates = make(config.metrics), make(config.candidates)
    evaluator: Evaluator | None = None
    if config.task not in ("ranking", "pointwise"):
        raise UserError(f"task={config.task}: it must be ranking or pointwise")
    if config.history not in ("train", "earlier"):
        raise UserError(f"history={config.history}: it must be train or earlier")
    if config.task == "ranking" and isinstance(metrics, RankingMetrics):
        evaluator = RankingEvaluator(prepared, metrics, candidates, config.eval_batch_size, config.top, config.history)
    elif config.task == "pointwise" and isinstance(metrics, PointwiseMetrics):
        if not isinstance(candidates, Full):
            raise UserError("task=pointwise scores labelled rows and ranks no candidates: set candidates=full")
        evaluator = PointwiseEvaluator(prepared, metrics, config.eval_batch_size, config.history, threshold)
    if evaluator is None:
        raise UserError(f"task={config.task} does not go with {type(metrics).__name__}: set metrics={config.task}")
    objective = make(config.objective)
    if config.baseline is None and isinstance(objective, LogLoss) != (config.task == "pointwise"):
        fix = {"ranking": "full_softmax", "pointwise": "logloss"}[config.task]
        raise UserError(f"task={config.task} does not go with {type(objective).__name__}: set objective={fix}")
    if config.selection not in evaluator.names:
        raise UserError(f"selection={config.selection}: weights can be selected by {', '.join(evaluator.names)}")
    evaluator.check()
    return evaluator
