"""Heads: field terms to scores."""
