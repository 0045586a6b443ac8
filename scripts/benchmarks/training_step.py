"""Time one training step against the plain way to write it, in one process on one thread; prints one JSON document.

    .venv/bin/python scripts/benchmarks/training_step.py

Ratios are plain / ours: how many times faster a step is.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig

from factorlm.backbones.adapter import Lora
from factorlm.config.build import cache_dir, make
from factorlm.config.compose import compose_config
from factorlm.objectives.full_softmax import FullSoftmax


def interleaved(first: Callable[[], None], second: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Median seconds of two functions, called in turn so that a drifting machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for function, record in zip((first, second), times, strict=True):
            started = time.perf_counter()
            function()
            record.append(time.perf_counter() - started)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def softmax_step() -> tuple[float, float]:
    """Loss and gradient of a full softmax: 1,024 users, 1,348 items, 64 factors."""
    users, items = (torch.randn(size, 64, requires_grad=True) for size in (1024, 1348))
    target = torch.randint(1348, (1024,))

    def plain() -> None:
        torch.nn.functional.cross_entropy(users @ items.T, target).backward()

    return interleaved(plain, lambda: FullSoftmax()(users, items, target).backward(), 50)


def lora_step(config: DictConfig) -> tuple[float, float]:
    """Forward and backward of LoRA on the top 4 layers over 32 film titles: all layers, and from stored states."""
    encoder = make(config.backbone).load(cache_dir(config))
    lora = Lora(rank=8, alpha=16, num_layers=4, targets=["q_proj", "v_proj"])
    layer = lora.first_layer(encoder)
    tokens = encoder.tokenize([f"The title of film number {i} ({1930 + i})" for i in range(32)])
    states = encoder.hidden_states(tokens, layer)
    lora.attach(encoder)
    assert torch.equal(encoder(tokens), encoder(tokens, states, layer))
    return interleaved(
        lambda: encoder(tokens).square().sum().backward(),
        lambda: encoder(tokens, states, layer).square().sum().backward(),
        5,
    )


def main() -> None:
    torch.set_num_threads(1)
    config = compose_config("train", ["backbone=smollm2_135m"])
    Path(cache_dir(config)).mkdir(parents=True, exist_ok=True)
    seconds = {"full_softmax/torch_cross_entropy": softmax_step(), "lora_resumed/all_layers": lora_step(config)}
    ratios = {name: round(plain / ours, 2) for name, (plain, ours) in seconds.items()}
    milliseconds = {name: [round(1000 * value, 1) for value in pair] for name, pair in seconds.items()}
    print(json.dumps({"ratios": ratios, "milliseconds plain, ours": milliseconds}))


if __name__ == "__main__":
    main()
