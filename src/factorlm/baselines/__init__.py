"""Baselines without gradient: `fit` on training pairs, then the same contract as a `Recommender`."""
