"""Does a causal language model know texts by heart?

D. Di Palma et al., Do LLMs memorize recommendation datasets? A preliminary study on MovieLens-1M, SIGIR 2025; greedy
completion as evidence of memory: N. Carlini et al., Quantifying memorization across neural language models, ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FEWEST = 4  # tokens of a text that can be halved


@torch.no_grad()
def recites(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, told: str, rest: str) -> bool:
    """Whether the model, told the beginning, would go on with exactly ``rest`` by greedy decoding.

    It would if each token of the rest is the likeliest after those before it, so one forward pass tells.
    """
    beginning, end = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (told, rest))
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [*start, *beginning, *end]
    logits = model(torch.tensor([ids], device=model.device)).logits[0]
    return bool((logits[-1 - len(end) : -1].argmax(1).cpu() == torch.tensor(end)).all())


def halves(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Beginning and rest of each text that has at least four tokens, cut in the middle of its words."""
    found = []
    for text in texts:
        words = text.split(" ")
        if len(words) > 1 and len(tokenizer(text, add_special_tokens=False)["input_ids"]) >= FEWEST:
            cut = len(words) // 2
            found.append((" ".join(words[:cut]), " " + " ".join(words[cut:])))
    return found
