"""Metrics: a functional core on ranks under a `torchmetrics.Metric` shell."""
