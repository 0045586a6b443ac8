"""Runs: a folder each, with everything needed to read, trust and repeat it."""
