"""Time prompts scored with shared prefixes against padded batches in the order of the rows; prints one JSON document.

    .venv/bin/python scripts/benchmarks/prompt_scoring.py --json

SmolLM2-135M is asked about all validation rows of some users of MovieLens-100K, on one thread, with an empty store.
The ratio is padded / ours in CPU seconds, and ``max_abs_diff`` the largest difference of two scores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from factorlm.backbones.prompt_states import PromptStates
from factorlm.backbones.prompting import PromptScorer
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.compose import compose_config
from factorlm.data.prepared import load_prepared, prepare
from factorlm.evaluation.pointwise import row_task

BATCH = 16  # prompts of a padded batch


def timed(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Result and CPU seconds."""
    started = time.process_time()
    return function(), time.process_time() - started


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the document and nothing else; it is the default")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--backbone", default="smollm2_135m")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = compose_config("train", [f"backbone={arguments.backbone}", "task=pointwise", "prompt=liked"])
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    task = row_task(prepared, "valid")
    model, tokenizer = make(config.backbone).load_causal(cache_dir(config))
    with tempfile.TemporaryDirectory() as folder:
        scorer = PromptScorer(
            model,
            tokenizer,
            make(config.prompt),
            prepared.frames["item"],
            lambda layer: PromptStates(Path(folder), "", layer, model.config.hidden_size),
        )
        users = torch.randperm(len(task.contexts), generator=torch.Generator().manual_seed(0))[: arguments.users]
        rows = torch.isin(task.places, users).nonzero().squeeze(1)  # in the order of the source
        contexts, items = task.contexts[task.places[rows]], task.items[task.item_places[rows]]
        prompts = scorer.prompts(contexts, items)
        ours, seconds = timed(lambda: scorer(scorer.shared(prompts)))
        again, repeated = timed(lambda: scorer(scorer.shared(prompts)))
        assert torch.equal(again, ours)
        batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
        padded, plain = timed(lambda: torch.cat([scorer(scorer.padded(batch)) for batch in batches]))
    print(
        json.dumps({
            "ratios": {"prompt_scoring/padded": round(plain / seconds, 2)},
            "max_abs_diff": float((ours - padded).abs().max()),
            "cpu_seconds": {"padded": round(plain, 2), "ours": round(seconds, 2), "stored": round(repeated, 3)},
            "prompts": len(prompts),
            "users": arguments.users,
            "mean_tokens": round(sum(map(len, scorer.tokens(prompts))) / len(prompts), 1),
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
