"""From a checked config and prepared data to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from factorlm.backbones.adapter import Adapter
from factorlm.backbones.prompt_states import PromptStates
from factorlm.backbones.prompting import CausalSource, PromptScorer
from factorlm.backbones.soft_prompting import SoftPromptScorer
from factorlm.backbones.store import EncoderSource, embeddings, hidden_states
from factorlm.baselines.base import Baseline, PromptedRows, TrainingData, Validated
from factorlm.baselines.stack import Stack
from factorlm.config.build import cache_dir, make
from factorlm.data.fields import (
    CodedField,
    FieldSpec,
    MultiHotField,
    NumericField,
    Side,
    TextField,
    encode_field,
    encode_fields,
)
from factorlm.data.prepared import Prepared
from factorlm.data.prompts import PromptTemplate, few_shots
from factorlm.data.tables import frame
from factorlm.encoders.base import HistoryEncoder
from factorlm.errors import UserError
from factorlm.evaluation.histories import train_contexts
from factorlm.evaluation.pointwise import row_task
from factorlm.heads.base import DeepHead, Head, Shape
from factorlm.models.fields import AdaptedVectors, FrozenVectors, NumericTerms, TextTerms
from factorlm.models.prompted import Prompted, PromptTerms
from factorlm.models.recommender import Recommender
from factorlm.models.soft_tokens import CollaborativeTokens, SoftTokens
from factorlm.models.table import Table
from factorlm.objectives.full_softmax import FullSoftmax
from factorlm.scoring import Scorer
from factorlm.training.checkpoint import load_checkpoint

CALIBRATION = 64  # training rows that scale and offset of a prompt are fitted on
TEXT_FIELD = FieldSpec(kind="text", side="item", column="text")


def make_model(config: DictConfig, prepared: Prepared) -> Recommender | Prompted | Baseline:
    """The model of a config, untrained; a baseline comes fitted, a prompt calibrated.

    Raises:
        UserError: fields, backbone and adapter do not go together.
    """
    builder = _Builder(config, prepared)
    if config.prompt is None and config.soft_tokens is not None:
        raise UserError("soft_tokens are for a prompt: set prompt=collm, or soft_tokens=none")
    if config.prompt is None and config.shots is not None:
        raise UserError(f"shots={config.shots} is for a prompt: set prompt=liked, or shots=null")
    if config.prompt is not None and prompt_field(config) is None:
        return builder.prompted()
    if config.baseline is not None:
        return builder.baseline()
    model = builder.recommender()
    if config.model.compile:
        for module in (model.head, model.encoder):
            if module is not None:
                module.compile()
    return model


def trained_model(config: DictConfig, prepared: Prepared, folder: Path) -> Recommender | Prompted | Baseline:
    """The model of a finished run on data with its training rows; a baseline has fitted these rows again, but for a
    stack, which was fitted on rows of validation.

    Raises:
        UserError: the checkpoint is missing, or of another model.
    """
    model = None if config.baseline is None else make(config.baseline)
    if isinstance(model, Stack):
        _Builder(config, prepared).join(model)
    else:
        model = make_model(config, prepared)
    if isinstance(model, Stack) or not isinstance(model, Baseline):
        load_checkpoint(model, folder / "checkpoint")
    return model.eval()


def used_rows(config: DictConfig, prepared: Prepared) -> npt.NDArray[np.int64]:
    """Training rows that a model is trained on, ascending; a prompt without an adapter is calibrated only."""
    labels = prepared.split.labels["train"]
    if config.baseline is not None:
        return np.arange(len(labels))
    if config.prompt is not None and prompt_field(config) is None and config.adapter is None:
        return _calibration_rows(config, prepared)
    return few_shots(labels, config.shots, config.seed)


def _calibration_rows(config: DictConfig, prepared: Prepared) -> npt.NDArray[np.int64]:
    labels = prepared.split.labels["train"]
    most = 2 * min(int(labels.sum()), int((~labels).sum()))
    return few_shots(labels, min(CALIBRATION, most) if config.shots is None else config.shots, config.seed)


def prompt_field(config: DictConfig) -> str | None:
    """Name of the field that is a prompt: ``{kind: prompt}`` and nothing else.

    Raises:
        UserError: there are several, or there is no prompt to read.
    """
    names = [str(name) for name, spec in config.fields.items() if spec.get("kind") == "prompt"]
    if not names:
        return None
    if len(names) > 1 or len(config.fields[names[0]]) > 1:
        raise UserError(f"fields.{names[-1]}: one field may be {{kind: prompt}}, and it takes no other key")
    if config.prompt is None:
        raise UserError(f"fields.{names[0]} is a prompt, and there is none: set prompt=liked, or remove the field")
    return names[0]


def field_specs(config: DictConfig) -> dict[str, FieldSpec]:
    """The fields of a config but for a prompt; a backbone without a text field or a prompt brings the item text."""
    content = OmegaConf.to_container(config.fields, resolve=True)
    assert isinstance(content, dict)
    prompt = prompt_field(config)
    specs = {str(name): FieldSpec(**spec) for name, spec in content.items() if name != prompt}
    has_text = any("text" in (spec.kind, spec.init) for spec in specs.values())
    if has_text and config.backbone is None:
        raise UserError(
            "a text field needs a backbone, and so does init=text: set backbone=minilm, or remove the field"
        )
    if config.backbone is not None and not has_text and (prompt is None or config.baseline is not None):
        specs["text"] = TEXT_FIELD
    if config.adapter is not None and config.backbone is None:
        raise UserError("adapter without a backbone: set backbone=smollm2_135m, or adapter=none")
    if config.adapter is not None and prompt is not None and has_text:
        raise UserError(f"adapter: fields.{prompt} and a text field would share it: remove the text field")
    for name in specs:
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise UserError(f"fields.{name}: this name is taken or not a plain word; call the field otherwise")
    for side in ("user", "item"):
        if not any(spec.side == side for spec in specs.values()) and not _spared(config, side):
            raise UserError(f"fields: there is none of the {side} side; a recommender needs both")
    return specs


@dataclass
class _Builder:
    config: DictConfig
    prepared: Prepared

    def recommender(self) -> Recommender:
        specs = field_specs(self.config)
        encoded = encode_fields(specs, self.prepared.frames, self.prepared.in_train)
        number = {side: sum(spec.side == side for spec in specs.values()) for side in ("user", "item")}
        history = self.config.encoder is not None
        prompt = self.config.prompt is not None
        shape = Shape(number["user"] + history + prompt, number["item"], self.config.model.num_factors)
        head: Head = make(self.config.head)(shape)
        width = head.factor_width(shape)
        if history and not width:
            raise UserError(f"encoder: {type(head).__name__} has no factors to encode a history with: set head=fm")
        encoder: HistoryEncoder | None = make(self.config.encoder)(width) if history else None
        coded: dict[Side, dict[str, CodedField | MultiHotField]] = {"user": {}, "item": {}}
        others: dict[Side, dict[str, nn.Module]] = {"user": {}, "item": {}}
        for name, field in encoded.items():
            if isinstance(field, CodedField | MultiHotField):
                coded[specs[name].side][name] = field
            else:
                others[specs[name].side][name] = self._module(field, width)
        table = Table(coded, width, self.config.model.init_std)
        for name, spec in specs.items():
            if spec.init == "text":
                self._start_from_texts(table, name)
        asked = self._prompt_terms(width) if prompt else None
        model = Recommender(table, others, encoder, head, self.config.model.factor_l2, asked)
        if not model.factorized and isinstance(make(self.config.objective), FullSoftmax):
            deep = type(head if isinstance(head, DeepHead) else encoder).__name__
            raise UserError(f"objective=full_softmax scores every item, and {deep} does so one by one: sample instead")
        return model

    def prompted(self) -> Prompted:
        config = self.config
        for key in ("baseline", "encoder"):
            if config[key] is not None:
                raise UserError(
                    f"a prompt goes without {key}, which would be ignored: set {key}=none, or fields=prompted, which "
                    "makes the prompt a field"
                )
        scorer = self._scorer()
        prompted = Prompted(scorer, balanced=config.shots is not None)
        split, rows = self.prepared.split, torch.from_numpy(_calibration_rows(config, self.prepared))
        items, labels = (torch.from_numpy(part["train"]) for part in (split.items, split.labels))
        share = float(labels.double().mean())
        scale = None if config.adapter is None else 1.0
        prompted.calibrate(train_contexts(self.prepared)[rows], items[rows], labels[rows], share, scale)
        if config.adapter is not None:
            scorer.adapt(make(config.adapter))
        return prompted

    def _scorer(self) -> PromptScorer:
        config = self.config
        if config.task != "pointwise":
            raise UserError(f"task={config.task}: a prompt for each user and item takes too long: set task=pointwise")
        if config.backbone is None:
            raise UserError("prompt without a backbone: set backbone=smollm2_135m, or prompt=none")
        template: PromptTemplate = make(config.prompt)
        if template.reads_vectors != (config.soft_tokens is not None):
            raise UserError(
                "prompt.target has places of vectors: set soft_tokens=mlp soft_tokens.run=FOLDER, or another prompt"
                if template.reads_vectors
                else "soft_tokens without a place in prompt.target: set prompt=collm, or soft_tokens=none"
            )
        backbone: CausalSource = make(config.backbone)
        model, tokenizer = backbone.load_causal(cache_dir(config))
        items = self.prepared.frames["item"]
        if config.soft_tokens is not None:
            soft: SoftTokens = make(config.soft_tokens)
            vectors = self._vectors(soft, cast("Tensor", model.get_input_embeddings().weight))
            return SoftPromptScorer(model, tokenizer, template, items, vectors, train_adapter=soft.train_adapter)
        folder, identity, width = cache_dir(config) / "prompts", backbone.identity(), int(model.config.hidden_size)
        return PromptScorer(
            model, tokenizer, template, items, lambda layer: PromptStates(folder, identity, layer, width)
        )

    def _vectors(self, soft: SoftTokens, embeddings: Tensor) -> CollaborativeTokens:
        """The vectors of another run as tokens."""
        folder, config = Path(str(soft.run)), self.config
        source = trained_model(self._config_of(folder), self.prepared, folder)
        if not isinstance(source, Recommender):
            kind = type(source).__name__
            raise UserError(
                f"soft_tokens.run={folder} is a {kind} and has no vectors: name a run of head=dot or head=fm"
            )
        rows = torch.from_numpy(few_shots(self.prepared.split.labels["train"], config.shots, config.seed))
        items = torch.from_numpy(self.prepared.split.items["train"])[rows]
        return CollaborativeTokens(source, train_contexts(self.prepared)[rows], items, embeddings, soft.hidden)

    def _config_of(self, folder: Path) -> DictConfig:
        """The config of a finished run, with this one's cache."""
        if not (folder / "config.yaml").exists():
            raise UserError(f"{folder} holds no run: this model reads it; name it where it lies now")
        config = OmegaConf.merge(OmegaConf.load(folder / "config.yaml"), {"cache": self.config.cache})
        assert isinstance(config, DictConfig)
        return config

    def join(self, stack: Stack) -> None:
        """Give a stack the models of its runs."""
        for folder in map(Path, stack.runs):
            config = self._config_of(folder)
            if config.task != "pointwise":
                raise UserError(f"baseline.runs: {folder} has task={config.task}; a stack takes runs of task=pointwise")
            stack.models.append(trained_model(config, self.prepared, folder))

    def _validated(self, models: Sequence[Scorer]) -> Validated:
        """What K models say of the rows of validation."""
        task = row_task(self.prepared, "valid", self.config.history)
        scores = [task.scored(model, self.config.eval_batch_size) for model in models]
        return Validated(torch.stack(scores, 1), task.labels)

    def _asked_rows(self) -> PromptedRows:
        rows = torch.from_numpy(few_shots(self.prepared.split.labels["train"], self.config.shots, self.config.seed))
        return PromptedRows(self._scorer(), rows, train_contexts(self.prepared)[rows])

    def _prompt_terms(self, width: int) -> PromptTerms:
        asked = self._asked_rows()
        items = torch.from_numpy(self.prepared.split.items["train"])[asked.rows]
        features = asked.scorer.eval().features(asked.contexts, items)  # without gradients
        terms = PromptTerms(asked.scorer.train(), features, width, self.config.model.init_std)
        if self.config.adapter is not None:
            asked.scorer.adapt(make(self.config.adapter))
        return terms

    def baseline(self) -> Baseline:
        baseline: Baseline = make(self.config.baseline)
        if self.config.task == "pointwise" and not baseline.logits:
            raise UserError(f"{type(baseline).__name__} ranks and gives no logits, as task=pointwise needs")
        for key in ("encoder", "adapter"):
            if self.config[key] is not None:
                raise UserError(f"a baseline reads no {key}: set {key}=none")
        if self.config.prompt is not None and not baseline.reads_prompts:
            raise UserError(f"{type(baseline).__name__} reads no prompts: set prompt=none, or baseline=bayesian_fm")
        if self.config.backbone is not None and not baseline.reads_texts:
            raise UserError(f"{type(baseline).__name__} reads no texts: set backbone=none, or baseline=text_knn")
        split, tables, vectors = self.prepared.split, self.prepared.tables, None
        specs = field_specs(self.config)
        if self.config.backbone is not None:
            texts = encode_field("text", TEXT_FIELD, self.prepared.frames["item"], self.prepared.in_train["item"])
            assert isinstance(texts, TextField)
            vectors = embeddings(make(self.config.backbone), texts.texts, cache_dir(self.config))[
                torch.tensor(texts.index)
            ]
        if isinstance(baseline, Stack):
            self.join(baseline)
        times = frame(tables.interactions)["timestamp"].to_numpy()[split.rows["train"]]
        rows = split.users["train"], split.items["train"], split.labels["train"], times
        users, items, labels, timestamps = (torch.from_numpy(row) for row in rows)
        plain = {name: spec for name, spec in specs.items() if spec.kind != "text"}
        baseline.fit(
            TrainingData(
                users, items, labels, timestamps, len(tables.users), len(tables.items), self.config.seed, vectors,
                plain, encode_fields(plain, self.prepared.frames, self.prepared.in_train),
                None if self.config.prompt is None else self._asked_rows(),
                self._validated(baseline.models) if isinstance(baseline, Stack) else None,
            )
        )  # fmt: skip
        return baseline

    def _module(self, field: NumericField | TextField, width: int) -> nn.Module:
        size = width, self.config.model.init_std
        if isinstance(field, NumericField):
            return NumericTerms(field, *size)
        backbone: EncoderSource = make(self.config.backbone)
        cache = cache_dir(self.config)
        table = embeddings(backbone, field.texts, cache)
        known = table[torch.tensor(field.in_train)]
        deviation, mean = torch.std_mean(known, 0, correction=0)
        vectors = FrozenVectors(table) if self.config.adapter is None else self._adapted(backbone, field.texts, cache)
        return TextTerms(torch.tensor(field.index), vectors, mean, _positive(deviation), *size)

    def _start_from_texts(self, table: Table, name: str) -> None:
        """Start the factors of an item id as principal components of the item texts, as large as random ones."""
        text = encode_field("text", TEXT_FIELD, self.prepared.frames["item"], self.prepared.in_train["item"])
        assert isinstance(text, TextField)
        vectors = embeddings(make(self.config.backbone), text.texts, cache_dir(self.config))[text.index]
        rows = torch.from_numpy(table.layouts["item"][0][:, table.names["item"].index(name)]).long()
        known = vectors[rows > 0]
        centred = known - known.mean(0)
        components = centred @ torch.linalg.svd(centred, full_matrices=False).Vh.T
        size = min(table.weight.shape[1] - 1, components.shape[1])
        factors = components[:, :size] / components[:, :size].std() * self.config.model.init_std
        with torch.no_grad():
            table.weight[rows[rows > 0], :size] = factors

    def _adapted(self, backbone: EncoderSource, texts: list[str], cache: Path) -> AdaptedVectors:
        adapter: Adapter = make(self.config.adapter)
        encoder = backbone.load(cache)
        layer = adapter.first_layer(encoder)
        tokens, states, offsets = hidden_states(backbone, encoder, texts, layer, cache)
        adapter.attach(encoder)
        return AdaptedVectors(encoder, tokens, states, offsets, layer)


def _spared(config: DictConfig, side: str) -> bool:
    """Whether a model needs no field of a side."""
    return config.baseline is not None or (side == "user" and config.encoder is not None)


def _positive(deviation: Tensor) -> Tensor:
    return torch.where(deviation > 1e-6, deviation, 1.0)
