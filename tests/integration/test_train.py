"""Runs on synthetic data with the tiny backbone: everything real but the knowledge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from factorlm.backbones.encoder import TextEncoder
from factorlm.commands.evaluate import evaluate
from factorlm.commands.train import train
from factorlm.config.build import make_data
from factorlm.data.prepared import load_prepared, prepare
from factorlm.errors import UserError
from factorlm.objectives.bce import BCE
from factorlm.objectives.bpr import BPR
from factorlm.objectives.full_softmax import FullSoftmax
from factorlm.objectives.logloss import LogLoss
from factorlm.objectives.sampled_softmax import SampledSoftmax
from factorlm.runs.record import read_record
from factorlm.runs.store import status
from factorlm.scoring import Contexts
from factorlm.training.module import RankingModule

Compose = Callable[..., DictConfig]


def run(config: DictConfig) -> tuple[Path, dict]:
    folder = train(config, progress=False)
    record = read_record(folder)
    assert record is not None
    return folder, record


def test_a_run_folder_opens_without_our_code(small: Compose) -> None:
    folder, record = run(small())
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 1
    assert record["status"] == "done"
    assert record["fingerprint"]
    assert record["parameters"]["trainable"] > 0
    assert {"git", "versions", "hardware", "seconds", "peak_memory_mb", "protocol", "history"} <= set(record)
    per_user = pl.read_parquet(folder / "per_user.parquet")
    assert per_user.columns[:2] == ["user_id", "train_interactions"]
    for name in per_user.columns[2:]:
        assert per_user[name].mean() == pytest.approx(record["metrics"][f"test/{name}"])
    top = pl.read_parquet(folder / "topk.parquet")
    assert top.columns == ["user_id", "rank", "item_id", "score"]
    assert top.group_by("user_id").len()["len"].unique().to_list() == [20]
    assert (folder / "checkpoint" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["backbone=tiny", "objective=bpr"],
        ["fields=side", "+fields.price={kind: numeric, side: item, column: price}"],
    ],
)
def test_same_config_same_bits(small: Compose, tmp_path: Path, extra: list[str]) -> None:
    if "fields=side" in extra:  # the synthetic items have other columns
        extra = [*extra, "fields.genres.column=tags", "fields.year.column=topic"]
    first, one = run(small(f"run.dir={tmp_path}/a", *extra))
    second, two = run(small(f"run.dir={tmp_path}/b", *extra))
    assert one["metrics"] == two["metrics"]
    assert one["key"] == two["key"]
    for file in ("per_user.parquet", "topk.parquet"):
        assert pl.read_parquet(first / file).equals(pl.read_parquet(second / file))
    assert (first / "checkpoint/model.safetensors").read_bytes() == (
        second / "checkpoint/model.safetensors"
    ).read_bytes()


def test_other_seed_other_numbers_same_protocol(small: Compose) -> None:
    _, one = run(small("seed=1"))
    _, two = run(small("seed=2"))
    assert one["metrics"] != two["metrics"]
    assert one["fingerprint"] == two["fingerprint"]


@pytest.mark.parametrize("objective", ["full_softmax", "sampled_softmax", "bpr", "bce"])
def test_every_objective_learns(small: Compose, objective: str) -> None:
    common = ["trainer.max_epochs=20", "optimizer.lr=0.03", "model.factor_l2=0.01"]
    _, record = run(small(f"objective={objective}", *common))
    losses = [epoch["train/loss"] for epoch in record["history"]]
    assert losses[-1] < losses[0]
    _, popularity = run(small("baseline=bias"))
    assert record["metrics"]["test/ndcg@10"] > popularity["metrics"]["test/ndcg@10"]
    assert popularity["parameters"]["trainable"] == 0


@pytest.mark.parametrize("split", ["user_time", "global_time", "leave_one_out", "random", "cold_item", "cold_user"])
def test_every_split_trains(small: Compose, split: str) -> None:
    _, record = run(small(f"split={split}", "trainer.max_epochs=1"))
    assert 0 <= record["metrics"]["test/ndcg@10"] <= 1


def test_text_finds_cold_items_and_ids_score_at_chance(small: Compose, tmp_path: Path) -> None:
    common = ["split=cold_item", "trainer.max_epochs=15", "optimizer.lr=0.03", "model.factor_l2=0.01"]
    folder, ids = run(small(f"run.dir={tmp_path}/ids", *common))
    _, text = run(small(f"run.dir={tmp_path}/text", "backbone=tiny", *common))
    top = pl.read_parquet(folder / "topk.parquet")
    assert top.group_by("user_id").agg(pl.col("score").n_unique())["score"].unique().to_list() == [1]
    assert text["metrics"]["test/ndcg@10"] > ids["metrics"]["test/ndcg@10"] + 0.1


def test_warm_and_cold_slices(small: Compose) -> None:
    folder, record = run(small("split.cold_items=keep", "dataset.num_items=400", "dataset.interactions_per_user=6"))
    assert {"test/ndcg@10/warm", "test/ndcg@10/cold"} <= set(record["metrics"])
    per_user = pl.read_parquet(folder / "per_user.parquet")
    assert per_user["ndcg@10/cold"].null_count() > 0


def test_lora_trains_adapter_projection_and_fields_only(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, _ = run(small(f"run.dir={tmp_path}/frozen", "backbone=tiny"))
    encoders: list[TextEncoder] = []
    build = TextEncoder.__init__
    monkeypatch.setattr(TextEncoder, "__init__", lambda self, *args: (build(self, *args), encoders.append(self))[0])
    folder, record = run(small(
        f"run.dir={tmp_path}/lora", "backbone=tiny", "adapter=lora", "adapter.num_layers=1", f"init_from={frozen}",
        "objective=sampled_softmax", "trainer.max_epochs=2", "trainer.limit_train_batches=3", "batch_size=32",
    ))  # fmt: skip
    saved = load_file(folder / "checkpoint" / "model.safetensors")
    started = load_file(frozen / "checkpoint" / "model.safetensors")
    assert set(started) < set(saved)
    assert all(".lora_" in name for name in set(saved) - set(started))
    assert any(saved[name].abs().sum() > 0 for name in saved if "lora_B" in name)
    trainable = sum(value.numel() for name, value in saved.items() if not name.endswith((".mean", ".deviation")))
    assert record["parameters"]["trainable"] == trainable
    assert record["steps"] == 6
    fresh = type(encoders[-1].model)(encoders[-1].model.config)
    original = dict(small("backbone=tiny").backbone)
    assert original["seed"] == 0
    names = {
        name.replace(".base_layer", ""): value
        for name, value in encoders[-1].model.named_parameters()
        if ".lora_" not in name
    }
    assert set(names) == {name for name, _ in fresh.named_parameters()}
    from factorlm.backbones.tiny import TinyBackbone

    reference = TinyBackbone(**{key: value for key, value in original.items() if key != "_target_"}).load(tmp_path)
    for name, value in reference.model.named_parameters():
        assert torch.equal(names[name], value), name
    assert evaluate(folder, "test", small().cache) == pytest.approx(
        {name: value for name, value in record["metrics"].items() if name.startswith("test/")}, abs=1e-12
    )


def test_a_second_run_computes_nothing_below_the_adapter(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, forward = set(), LlamaDecoderLayer.forward

    def noted(self: LlamaDecoderLayer, *args: object, **kwargs: object) -> torch.Tensor:
        called.add(self.self_attn.layer_idx)
        return forward(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(LlamaDecoderLayer, "forward", noted)
    arguments = [f"cache={tmp_path}", "backbone=tiny", "adapter=lora", "adapter.num_layers=1", "trainer.max_epochs=1"]
    for seed, layers in ((1, {0, 1, 2}), (2, {2})):
        called.clear()
        run(small(*arguments, f"seed={seed}"))
        assert called == layers


def test_evaluate_repeats_the_record_to_the_bit(small: Compose) -> None:
    folder, record = run(small("backbone=tiny"))
    assert evaluate(folder, "test", small().cache) == {
        k: v for k, v in record["metrics"].items() if k.startswith("test/")
    }
    with pytest.raises(UserError, match="part=train"):
        evaluate(folder, "train", small().cache)


def test_a_finished_run_is_reused_and_another_refused(small: Compose, tmp_path: Path) -> None:
    folder, first = run(small(f"run.dir={tmp_path}/a"))
    _, again = run(small(f"run.dir={tmp_path}/a"))
    assert again["started"] == first["started"]
    assert again == first
    with pytest.raises(UserError, match="holds another finished run"):
        run(small(f"run.dir={tmp_path}/a", "seed=2"))
    assert folder == tmp_path / "a"


def test_a_run_that_was_killed_never_shows_as_done(small: Compose, tmp_path: Path) -> None:
    folder, record = run(small(f"run.dir={tmp_path}/a"))
    killed = {**record, "status": "running"}  # as `finish` would have found it
    (folder / "record.json").write_text(json.dumps(killed))
    assert status(folder, killed) == "killed"
    _, again = run(small(f"run.dir={tmp_path}/a"))
    assert again["status"] == "done"
    assert again["metrics"] == record["metrics"]


def test_files_that_are_no_run_are_left_alone(small: Compose, tmp_path: Path) -> None:
    (tmp_path / "mine" / "checkpoint").mkdir(parents=True)
    (tmp_path / "mine" / "checkpoint" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are no run"):
        run(small(f"run.dir={tmp_path}/mine"))
    assert (tmp_path / "mine" / "checkpoint" / "thesis.txt").exists()


def test_a_start_from_other_rows_is_refused(small: Compose, tmp_path: Path) -> None:
    start, _ = run(small(f"run.dir={tmp_path}/a", "split=cold_item", "split.seed=0"))
    with pytest.raises(UserError, match="was trained on other rows"):
        run(small(f"run.dir={tmp_path}/b", "split=cold_item", "split.seed=1", f"init_from={start}"))


def test_a_diverging_run_fails_in_one_line(small: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+: lower optimizer.lr"):
        run(small(f"run.dir={tmp_path}/a", "optimizer.lr=1e30", "trainer.max_epochs=5"))
    record = read_record(tmp_path / "a")
    assert record is not None
    assert record["status"] == "failed"
    batch = json.loads((tmp_path / "a" / "diverged.json").read_text())["interactions"]
    assert len(batch) == len(set(batch)) == 256
    run(small(f"run.dir={tmp_path}/a"))
    assert not (tmp_path / "a" / "diverged.json").exists()


def test_the_batch_that_diverged_is_the_one_listed(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, losses = [], BCE.forward

    def broken(self: BCE, positive: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        loss = losses(self, positive, *rest)
        return loss * torch.nan if len(trained) == 4 else loss

    step = RankingModule.training_step

    def noted(self: RankingModule, batch: tuple[Contexts, torch.Tensor], batch_idx: int) -> torch.Tensor:
        trained.append((batch[0].users, batch[1]))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(BCE, "forward", broken)
    monkeypatch.setattr(RankingModule, "training_step", noted)
    config = small(f"run.dir={tmp_path}/a", "objective=bce")
    with pytest.raises(UserError, match=r"the loss is nan at step 3: .*diverged.json"):
        run(config)
    listed = json.loads((tmp_path / "a" / "diverged.json").read_text())["interactions"]
    source, rule = make_data(config)
    split = load_prepared(prepare(source, rule, Path(config.cache))[0]).split
    rows = np.searchsorted(split.rows["train"], listed)
    assert split.rows["train"][rows].tolist() == listed
    assert torch.equal(trained[-1][0], torch.from_numpy(split.users["train"][rows]))
    assert torch.equal(trained[-1][1], torch.from_numpy(split.items["train"][rows]))


@pytest.mark.parametrize(
    "extra",
    [
        ["backbone=tiny", "adapter=lora", "adapter.num_layers=1", "objective=sampled_softmax"],
        ["backbone=tiny", "head=deepfm", "encoder=sasrec", "objective=bpr"],
        ["backbone=tiny", "encoder=gru"],
        ["backbone=tiny", "task=pointwise", "dataset.negatives=keep"],
    ],
)
def test_mixed_precision_keeps_scores_and_losses_in_float32(
    small: Compose, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    seen: set[torch.dtype] = set()
    for objective in (FullSoftmax, SampledSoftmax, BPR, LogLoss):
        loss = objective.forward

        def noted(self: nn.Module, *parts: torch.Tensor, loss: Callable = loss) -> torch.Tensor:
            seen.update(part.dtype for part in parts if part.is_floating_point())
            assert not torch.is_autocast_enabled("cpu")
            return loss(self, *parts)

        monkeypatch.setattr(objective, "forward", noted)
    common = ["trainer.max_epochs=1", "trainer.limit_train_batches=4", "model.num_factors=8", "seed=2"]
    _, mixed = run(small("trainer.precision=bf16-mixed", *extra, *common))
    assert seen == {torch.float32}
    _, full = run(small(*extra, *common))
    losses = [record["history"][0]["train/loss"] for record in (mixed, full)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert (losses[0] != losses[1]) == (
        ("backbone=tiny" in extra and any("=lora" in one for one in extra)) or any("encoder" in one for one in extra)
    )


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_run_starts_from_an_adapter_without_wrapping_or_dropping_it(
    small: Compose, tmp_path: Path, kind: str
) -> None:
    adapted = [
        "backbone=tiny", f"adapter={kind}", "adapter.num_layers=1", "objective=sampled_softmax", "batch_size=32",
        "trainer.max_epochs=1", "trainer.limit_train_batches=3",
    ]  # fmt: skip
    frozen, _ = run(small(f"run.dir={tmp_path}/frozen", "backbone=tiny", "trainer.max_epochs=1"))
    first, _ = run(small(f"run.dir={tmp_path}/first", *adapted, f"init_from={frozen}"))
    second, _ = run(small(f"run.dir={tmp_path}/second", *adapted, f"init_from={first}", "optimizer.lr=1e-4"))
    before, after = (load_file(folder / "checkpoint/model.safetensors") for folder in (first, second))
    assert set(before) == set(after)
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)
    with pytest.raises(UserError, match=r"training left the adapter as it was: raise optimizer.lr"):
        run(small(f"run.dir={tmp_path}/third", *adapted, f"init_from={first}", "optimizer.lr=1e-30"))
    for other in (["backbone=tiny"], [*adapted, "adapter.num_layers=2"]):
        with pytest.raises(UserError, match=r"first has a trained \w+: this run needs the adapter of its config.yaml"):
            run(small(f"run.dir={tmp_path}/other", *other, f"init_from={first}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=lora"], "adapter without a backbone"),
        (["+fields.text={kind: text, side: item, column: text}"], "a text field needs a backbone"),
        (["backbone=tiny", "dataset.text=null"], "set dataset.text"),
        (["~fields.user"], "none of the user side"),
        (["selection=ndcg@7"], "selection=ndcg@7"),
        (["task=grading"], "task=grading: no such option.*there are pointwise, ranking"),
        (["init_from=nowhere"], "not the folder of a finished run"),
        (["+fields.type={kind: id, side: item, column: topic}"], "fields.type: this name is taken"),
        (["trainer.max_steps=1"], "ended before the first validation"),
        (["batch_size=0"], "batch_size=0: it must be 1 or more"),
        (["split.valid=0.7"], "split.valid=0.7: it must lie between"),
        (["fields=side"], r"fields.genres.column=genres is not in the items table, which has .*topic"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(small: Compose, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(small(*overrides))
