"""``factorlm probe``: does the backbone know the catalogue, or what users liked, by heart?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import binomtest

from factorlm.backbones.memorization import halves, recites
from factorlm.backbones.prompting import CausalSource
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.check import check_config
from factorlm.data.prepared import Prepared, load_prepared, prepare
from factorlm.errors import UserError
from factorlm.evaluation.histories import contexts_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

ITEMS, USERS = 500, 100  # asked about, drawn by seed
TOLD = 10  # items of a history that the model is told
SHOWN = 5  # recited texts that are printed
INSTRUCTION = "What one user liked, in this order:"


def main(config: DictConfig) -> None:
    """Print how many item texts, and how many next items of users, the language model recites.

    Raises:
        UserError: there is no causal backbone, or items have no text.
    """
    check_config(config, ["dataset", "split", "backbone"])
    if config.backbone is None:
        raise UserError("probe without a backbone: set backbone=smollm2_135m")
    torch.set_num_threads(config.threads)
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    items = prepared.frames["item"]
    if "text" not in items.columns:
        raise UserError("probe: items have no text; set dataset.text to a template such as '{title}'")
    texts = items["text"].to_list()
    backbone: CausalSource = make(config.backbone)
    model, tokenizer = backbone.load_causal(cache_dir(config))
    model.eval()
    rng = np.random.default_rng(config.seed)
    cut = halves(tokenizer, [texts[item] for item in rng.permutation(len(texts))[:ITEMS]])
    console = Console(stderr=True)
    known = [told + rest for told, rest in track(cut, "catalogue", console=console, transient=True)
             if recites(model, tokenizer, told, rest)]  # fmt: skip
    print(f"catalogue: of {len(cut)} item texts {len(known)} are completed word for word from their first half")
    print("".join(f"  {text}\n" for text in known[:SHOWN]), end="")
    histories = _histories(prepared, rng)
    if not histories:
        print(f"histories: no user liked more than {TOLD} items in training")
        return
    told = ["\n- ".join([INSTRUCTION, *(texts[item] for item in history[:TOLD])]) + "\n-" for history in histories]
    hits = np.array([
        [recites(model, tokenizer, words, f" {texts[history[TOLD]]}\n") for words in (told[place], told[place - 1])]
        for place, history in track(list(enumerate(histories)), "histories", console=console, transient=True)
    ], dtype=np.bool_)  # fmt: skip
    own, other = (int((hits[:, one] & ~hits[:, 1 - one]).sum()) for one in (0, 1))
    p = binomtest(own, own + other).pvalue if own + other else 1.0
    print(
        f"histories: of {len(histories)} users the item after the first {TOLD} is recited for {int(hits[:, 0].sum())}; "
        f"after those of another user for {int(hits[:, 1].sum())} (McNemar's exact p {p:.2g})"
    )


def _histories(prepared: Prepared, rng: np.random.Generator) -> list[list[int]]:
    """What some users liked in training, oldest first: of each more items than are told."""
    contexts = contexts_of(prepared, np.arange(len(prepared.tables.users)), ("train",))
    long = np.flatnonzero((contexts.ends - contexts.starts).numpy() > TOLD)
    return [
        contexts.log[contexts.starts[user] : contexts.ends[user]].tolist() for user in rng.permutation(long)[:USERS]
    ]
