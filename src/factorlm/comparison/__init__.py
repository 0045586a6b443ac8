"""Comparison: arms paired user by user."""
