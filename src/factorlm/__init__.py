"""FactorLM: experiments on recommender systems that use language models."""

import warnings

__version__ = "0.1.0"

# files of conf/hydra/launcher fill in what the launchers' own packages define; Hydra warns, here and in every job
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema with the same name")
