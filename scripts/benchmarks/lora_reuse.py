"""Time LoRA steps that start from stored hidden states against steps that do not; one thread, three CPU minutes.

    .venv/bin/python scripts/benchmarks/lora_reuse.py --json

SmolLM2-135M reads the item texts of MovieLens-100K; 256 labelled interactions make a step of forward, backward and
AdamW. The arms take turns, step by step, from the same weights; a time is the median of CPU seconds:

* ``lora_reuse``: as the framework trains, with LoRA on the top 4 layers, unique texts, and states stored below.
* ``same_layers``: the same without reuse. ``all_layers``: LoRA on every layer, without reuse.
* ``hf_trainer``: a plain script of Trainer and peft with LoRA on the top 4 layers: each row brings its text. The ratio
  ``lora_reuse/hf_trainer`` is of the framework in bfloat16 with eager attention, which suits short texts on a CPU:
  ``lora_reuse_bf16``. The losses of the last step are told.

A ratio is their seconds by ours. ``max_abs_diff`` is the resumed pass less the full pass of one batch, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from factorlm.backbones.adapter import adapter_names
from factorlm.backbones.encoder import length_batches
from factorlm.backbones.store import hidden_states
from factorlm.config.build import cache_dir, make, make_data
from factorlm.config.compose import compose_config
from factorlm.config.model import TEXT_FIELD
from factorlm.data.fields import TextField, encode_field
from factorlm.data.prepared import load_prepared, prepare
from factorlm.models.fields import AdaptedVectors, TextTerms

BATCH, FACTORS, STEPS, RATE, TOP = 256, 16, 3, 0.003, 4


@dataclass(frozen=True)
class Rows:
    """STEPS * BATCH labelled interactions: users, texts by number and labels; the texts, and the number of users."""

    users: Tensor
    index: Tensor
    labels: Tensor
    texts: list[str]
    num_users: int

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        part = slice(step * BATCH, (step + 1) * BATCH)
        return self.users[part], self.index[part], self.labels[part]


class TextFM(nn.Module):
    """The framework's text field with a user's factor: w'x + <v_u, V x> of the vector x of an item's text."""

    def __init__(self, num_users: int, terms: TextTerms) -> None:
        super().__init__()
        self.user = nn.Embedding(num_users, FACTORS)
        self.terms = terms

    def forward(self, users: Tensor, texts: Tensor) -> Tensor:
        linear, factor = self.terms(texts)
        return linear + (self.user(users) * factor).sum(1)


class PlainFM(nn.Module):
    """The same score as a script has it: the text of every row goes through the language model."""

    def __init__(self, model: nn.Module, ours: TextFM) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        layers = "|".join(str(model.config.num_hidden_layers - 1 - index) for index in range(TOP))
        targets = rf"layers\.({layers})\.self_attn\.(q|k|v|o)_proj"
        self.model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
        self.user, self.weight, self.factor = map(deepcopy, (ours.user, ours.terms.weight, ours.terms.factor))
        self.mean, self.scale = ours.terms.mean, ours.terms.deviation * len(ours.terms.mean)
        self.losses: list[float] = []

    def forward(self, users: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        vectors = ((states * mask).sum(1) / mask.sum(1) - self.mean) / self.scale
        scores = self.weight(vectors).squeeze(-1) + (self.user(users) * self.factor(vectors)).sum(1)
        loss = nn.functional.binary_cross_entropy_with_logits(scores, labels)
        self.losses.append(loss.item())
        return {"loss": loss}


class Arm:
    """A model of ours in a bare loop; seconds and loss of each step."""

    def __init__(self, model: TextFM) -> None:
        self.model = model
        trainable = [value for value in model.parameters() if value.requires_grad]
        self._optimizer = torch.optim.AdamW(trainable, RATE, weight_decay=0.0)
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self, users: Tensor, texts: Tensor, labels: Tensor) -> None:
        started = time.process_time()
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(users, texts), labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.losses.append(loss.item())
        self.seconds.append(time.process_time() - started)


def read_rows(config: DictConfig) -> Rows:
    source, rule = make_data(config)
    prepared = load_prepared(prepare(source, rule, cache_dir(config))[0])
    field = encode_field("text", TEXT_FIELD, prepared.frames["item"], prepared.in_train["item"])
    assert isinstance(field, TextField)
    split = prepared.split
    chosen = np.random.default_rng(0).permutation(len(split.users["train"]))[: STEPS * BATCH]
    used, index = np.unique(np.asarray(field.index)[split.items["train"][chosen]], return_inverse=True)
    columns = split.users["train"][chosen], index, split.labels["train"][chosen].astype(np.float32)
    return Rows(*map(torch.from_numpy, columns), [field.texts[i] for i in used], len(prepared.tables.users))


def text_vectors(config: DictConfig, texts: list[str], cache: Path, *, top: int, layer: int) -> AdaptedVectors:
    """LoRA on the ``top`` layers over states stored before ``layer``; before layer 0 is the whole model."""
    backbone, adapter = make(config.backbone), replace(make(config.adapter), num_layers=top)
    encoder = backbone.load(cache_dir(config))
    tokens, states, offsets = hidden_states(backbone, encoder, texts, layer, cache)
    torch.manual_seed(0)
    adapter.attach(encoder)
    return AdaptedVectors(encoder, tokens, states, offsets, layer)


@torch.no_grad()
def max_abs_diff(vectors: AdaptedVectors, rows: Rows) -> float:
    """Of the resumed and the full pass over the texts of the first step."""
    encoder, layer = vectors.encoder, vectors.layer
    tokens = encoder.tokenize([rows.texts[i] for i in rows.batch(0)[1].unique()])
    batch = [tokens[i] for i in next(length_batches(tokens))]
    return float((encoder(batch, encoder.hidden_states(batch, layer), layer) - encoder(batch)).abs().max())


def train_in_turns(plain: PlainFM, arms: dict[str, Arm], tokens: list[list[int]], rows: Rows) -> list[float]:
    """Seconds of each step of the plain script; after each, every arm of ours takes the same step."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    seconds: list[float] = []

    class Turns(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.process_time() - self.started)
            for arm in arms.values():
                arm.step(*rows.batch(len(seconds) - 1))
            self.started = time.process_time()

    def collate(numbers: list[int]) -> dict[str, Tensor]:
        texts = [torch.tensor(tokens[rows.index[i]]) for i in numbers]
        return {
            "users": rows.users[numbers],
            "input_ids": nn.utils.rnn.pad_sequence(texts, batch_first=True),
            "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True),
            "labels": rows.labels[numbers],
        }

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=RATE, weight_decay=0.0,
            lr_scheduler_type="constant", max_grad_norm=0.0, train_sampling_strategy="sequential", use_cpu=True,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        numbers: Any = list(range(len(rows.users)))
        trainer = Trainer(plain, arguments, collate, numbers, callbacks=[Turns()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return seconds


def measure() -> dict[str, Any]:
    common = ["backbone=smollm2_135m", "adapter=lora", "task=pointwise"]
    config = compose_config("train", common)
    half = compose_config("train", [*common, "backbone.dtype=bfloat16", "backbone.attn_implementation=eager"])
    rows, stored = read_rows(config), cache_dir(config)
    depth = make(config.backbone).load(stored).num_layers
    with tempfile.TemporaryDirectory() as folder:
        vectors = {
            "lora_reuse": text_vectors(config, rows.texts, stored, top=TOP, layer=depth - TOP),
            "lora_reuse_bf16": text_vectors(half, rows.texts, stored, top=TOP, layer=depth - TOP),
            "same_layers": text_vectors(config, rows.texts, Path(folder), top=TOP, layer=0),
            "all_layers": text_vectors(config, rows.texts, Path(folder), top=depth, layer=0),
        }
    first = vectors["lora_reuse"]
    names, index = adapter_names(first), torch.arange(len(rows.texts))
    difference = max_abs_diff(first, rows)
    with torch.no_grad():
        deviation, mean = torch.std_mean(first(index), 0, correction=0)
    ours = TextFM(rows.num_users, TextTerms(index, nn.Identity(), mean, deviation, FACTORS, 0.01))
    arms = {}
    for arm, source in vectors.items():
        if arm != "all_layers":
            for name in names:
                source.get_parameter(name).data.copy_(first.get_parameter(name))
        model = deepcopy(ours)
        model.terms.vectors = source
        arms[arm] = Arm(model)
    plain = PlainFM(make(config.backbone).load(stored).model, ours)
    for name, value in plain.model.named_parameters():
        if value.requires_grad:
            value.data.copy_(first.get_parameter(name.replace("base_model.", "encoder.", 1)))
    seconds = {"hf_trainer": train_in_turns(plain, arms, first.encoder.tokenize(rows.texts), rows)}
    seconds |= {name: arm.seconds for name, arm in arms.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {f"lora_reuse/{name}": median[name] / median["lora_reuse"] for name in ("same_layers", "all_layers")}
    ratios["lora_reuse/hf_trainer"] = median["hf_trainer"] / median["lora_reuse_bf16"]
    return {
        "max_abs_diff": difference,
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "loss": {"hf_trainer": plain.losses[-1], **{name: arm.losses[-1] for name, arm in arms.items()}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    found = measure()
    if as_json:
        print(json.dumps(found))
    else:
        for kind, values in found.items():
            print(kind, values)


if __name__ == "__main__":
    main()
