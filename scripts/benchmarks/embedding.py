"""Time the store of frozen embeddings against bare forward passes; prints one JSON document.

    .venv/bin/python scripts/benchmarks/embedding.py --json

All item texts of MovieLens-1M by a frozen backbone, on one thread: through the store, by the model alone over batches
of texts sorted by length, and by the model alone over batches in the order of the catalogue. All three tokenize; none
counts loading the model. Ratios are theirs / ours in CPU seconds, the least of ``--repeats`` turns each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from factorlm.backbones.encoder import TextEncoder
from factorlm.backbones.store import embeddings
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.compose import compose_config
from factorlm.config.model import TEXT_FIELD
from factorlm.data.fields import TextField, encode_field
from factorlm.data.prepared import load_prepared, prepare

BATCH = 32  # texts of a plain batch


class Loaded:
    """A backbone that is in memory already."""

    def __init__(self, name: str, encoder: TextEncoder) -> None:
        self.name, self.encoder = name, encoder

    def identity(self) -> str:
        """For a store that is thrown away."""
        return self.name

    def fetch(self, cache_dir: Path) -> None:
        """There is nothing to fetch."""

    def load(self, cache_dir: Path) -> TextEncoder:
        """The encoder."""
        return self.encoder


@torch.no_grad()
def plain(encoder: TextEncoder, texts: Sequence[str], *, by_length: bool) -> Tensor:
    """Vectors [T, H] by transformers alone."""
    model, tokenizer = encoder.model, encoder._tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    order = list(range(len(texts)))
    if by_length:
        lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
        order.sort(key=lengths.__getitem__)
    found: list[Tensor] = []
    for start in range(0, len(order), BATCH):
        chosen = [texts[i] for i in order[start : start + BATCH]]
        limit = encoder._max_seq_len
        inputs = tokenizer(chosen, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        found.append(encoder._pool(model(**inputs).last_hidden_state, inputs["attention_mask"]))
    return torch.cat(found)[torch.tensor(order).argsort()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the document and nothing else; it is the default")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--dataset", default="ml1m")
    parser.add_argument("--text", help="template of an item's text; the default is the dataset's")
    parser.add_argument("--texts", type=int, help="only the first so many")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    extra = [f"dataset.text='{arguments.text}'"] if arguments.text else []
    config = compose_config("train", [f"dataset={arguments.dataset}", f"backbone={arguments.backbone}", *extra])
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    field = encode_field("text", TEXT_FIELD, prepared.frames["item"], prepared.in_train["item"])
    assert isinstance(field, TextField)
    texts = [field.texts[index] for index in field.index][: arguments.texts]  # one for each item, in catalogue order
    encoder = make(config.backbone).load(cache_dir(config))

    def stored() -> Tensor:
        unique = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(unique)}
        with tempfile.TemporaryDirectory() as folder:
            vectors = embeddings(Loaded(arguments.backbone, encoder), unique, Path(folder)).clone()
        return vectors[[place[text] for text in texts]]

    arms: dict[str, Callable[[], Tensor]] = {
        "embedding": stored,
        "bare_sorted": lambda: plain(encoder, texts, by_length=True),
        "catalogue_order": lambda: plain(encoder, texts, by_length=False),
    }
    plain(encoder, texts[: 4 * BATCH], by_length=False)
    seconds = {name: float("inf") for name in arms}
    vectors = {}
    for _ in range(arguments.repeats):
        for name, arm in arms.items():
            started = time.process_time()
            vectors[name] = arm()
            seconds[name] = min(seconds[name], time.process_time() - started)
    ours, lengths = vectors["embedding"], [len(ids) for ids in encoder.tokenize(texts)]
    names = ("bare_sorted", "catalogue_order")
    print(
        json.dumps({
            "ratios": {f"embedding/{name}": round(seconds[name] / seconds["embedding"], 3) for name in names},
            "max_abs_diff": max(float((ours - vectors[name]).abs().max()) for name in names),
            "cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
            "texts": len(texts),
            "unique_texts": len(set(texts)),
            "tokens": {"mean": round(sum(lengths) / len(lengths), 1), "longest": max(lengths)},
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
