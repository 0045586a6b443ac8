"""Evaluation: exact ranking of every candidate, per user."""
