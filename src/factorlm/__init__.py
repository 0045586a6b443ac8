"""FactorLM: experiments on recommender systems that use language models."""

__version__ = "0.1.0"
