"""Metrics: a functional core on ranks under a `torchmetrics.Metric` shell."""

from factorlm.metrics.lean import import_torchmetrics

import_torchmetrics()
