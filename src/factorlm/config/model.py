"""From a checked config and prepared data to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from factorlm.backbones.adapter import Lora
from factorlm.backbones.store import EncoderSource, embeddings, hidden_states
from factorlm.baselines.bias import Bias
from factorlm.config.build import cache_dir, make
from factorlm.data.fields import CodedField, FieldSpec, MultiHotField, NumericField, TextField, encode_fields
from factorlm.data.prepared import Prepared
from factorlm.errors import UserError
from factorlm.models.fields import (
    AdaptedVectors,
    CodedTerms,
    FrozenVectors,
    MultiHotTerms,
    NumericTerms,
    TextTerms,
)
from factorlm.models.recommender import Recommender

TEXT_FIELD = FieldSpec(kind="text", side="item", column="text")


def make_model(config: DictConfig, prepared: Prepared) -> Recommender | Bias:
    """The model of a config, untrained; a baseline comes fitted.

    Raises:
        UserError: fields, backbone and adapter do not go together.
    """
    if config.baseline is not None:
        baseline: Bias = make(config.baseline)
        split = prepared.split
        users, items, labels = (torch.from_numpy(part["train"]) for part in (split.users, split.items, split.labels))
        baseline.fit(users, items, labels, len(prepared.tables.users), len(prepared.tables.items))
        return baseline
    return _Builder(config, prepared).recommender()


def field_specs(config: DictConfig) -> dict[str, FieldSpec]:
    """The fields of a config; a backbone without a text field brings the item text."""
    content = OmegaConf.to_container(config.fields, resolve=True)
    assert isinstance(content, dict)
    specs = {str(name): FieldSpec(**spec) for name, spec in content.items()}
    has_text = any(spec.kind == "text" for spec in specs.values())
    if has_text and config.backbone is None:
        raise UserError("a text field needs a backbone: set backbone=minilm, or remove the field")
    if config.backbone is not None and not has_text:
        specs["text"] = TEXT_FIELD
    if config.adapter is not None and config.backbone is None:
        raise UserError("adapter without a backbone: set backbone=smollm2_135m, or adapter=none")
    for name in specs:
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise UserError(f"fields.{name}: this name is taken or not a plain word; call the field otherwise")
    for side in ("user", "item"):
        if not any(spec.side == side for spec in specs.values()):
            raise UserError(f"fields: there is none of the {side} side; a recommender needs both")
    return specs


@dataclass
class _Builder:
    config: DictConfig
    prepared: Prepared

    def recommender(self) -> Recommender:
        specs = field_specs(self.config)
        encoded = encode_fields(specs, self.prepared.frames, self.prepared.in_train)
        sides: Mapping[str, dict[str, nn.Module]] = {"user": {}, "item": {}}
        for name, field in encoded.items():
            sides[specs[name].side][name] = self._module(field)
        return Recommender(sides["user"], sides["item"], make(self.config.head), self.config.model.factor_l2)

    def _module(self, field: CodedField | MultiHotField | NumericField | TextField) -> nn.Module:
        size = self.config.model.num_factors, self.config.model.init_std
        if isinstance(field, CodedField):
            return CodedTerms(field, *size)
        if isinstance(field, MultiHotField):
            return MultiHotTerms(field, *size)
        if isinstance(field, NumericField):
            return NumericTerms(field, *size)
        backbone: EncoderSource = make(self.config.backbone)
        cache = cache_dir(self.config)
        table = embeddings(backbone, field.texts, cache)
        known = table[torch.tensor(field.in_train)]
        deviation, mean = torch.std_mean(known, 0, correction=0)
        vectors = FrozenVectors(table) if self.config.adapter is None else self._adapted(backbone, field.texts, cache)
        return TextTerms(torch.tensor(field.index), vectors, mean, _positive(deviation), *size)

    def _adapted(self, backbone: EncoderSource, texts: list[str], cache: Path) -> AdaptedVectors:
        adapter: Lora = make(self.config.adapter)
        encoder = backbone.load(cache)
        layer = adapter.first_layer(encoder)
        encoder.require_resumable(layer)
        tokens, states, offsets = hidden_states(backbone, encoder, texts, layer, cache)
        adapter.attach(encoder)
        return AdaptedVectors(encoder, tokens, states, offsets, layer)


def _positive(deviation: Tensor) -> Tensor:
    return torch.where(deviation > 1e-6, deviation, 1.0)
