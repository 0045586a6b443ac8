"""Time one training step against the plain way to write it, in one process on one thread; prints one JSON document.

    .venv/bin/python scripts/benchmarks/training_step.py

Ratios are plain / ours: how many times faster a step is.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

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


def main() -> None:
    torch.set_num_threads(1)
    seconds = {"full_softmax/torch_cross_entropy": softmax_step()}
    ratios = {name: round(plain / ours, 2) for name, (plain, ours) in seconds.items()}
    milliseconds = {name: [round(1000 * value, 1) for value in pair] for name, pair in seconds.items()}
    print(json.dumps({"ratios": ratios, "milliseconds plain, ours": milliseconds}))


if __name__ == "__main__":
    main()
