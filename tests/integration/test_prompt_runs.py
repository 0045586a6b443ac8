"""Runs of a prompted language model: zero-shot like a baseline, and tuned on a few rows."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from factorlm.backbones.encoder import TextEncoder
from factorlm.cli import main
from factorlm.commands.evaluate import OpenRun, evaluate, open_run
from factorlm.commands.train import train
from factorlm.errors import UserError
from factorlm.evaluation.pointwise import row_task
from factorlm.models.recommender import Recommender
from factorlm.runs.record import read_record

Compose = Callable[..., DictConfig]
TASK = ["task=pointwise", "prompt=liked", "dataset.num_users=40"]
PROMPT = [*TASK, "backbone=tiny", "backbone.max_seq_len=4096"]
LORA = [*PROMPT, "adapter=lora", "adapter.num_layers=1", "shots=16", "batch_size=8", "trainer.max_epochs=2"]


def run(config: DictConfig) -> tuple[Path, dict]:
    folder = train(config, progress=False)
    record = read_record(folder)
    assert record is not None
    return folder, record


def test_zero_shot_is_a_baseline_whose_order_no_label_changes(
    small: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = run(small(*PROMPT, "shots=16", f"run.dir={tmp_path}/one"))
    assert record["training_rows"] == 16
    assert record["parameters"]["trainable"] == 0
    assert len(record["prompt"]) == 12
    assert set(load_file(folder / "checkpoint/model.safetensors")) == {"scale", "offset", "prior"}
    rows = pl.read_parquet(folder / "rows.parquet")
    assert rows["score"].n_unique() > len(rows) / 2
    assert evaluate(folder, "test", small().cache) == {
        name: value for name, value in record["metrics"].items() if name.startswith("test/")
    }
    counted: list[int] = []
    real = TextEncoder.states
    monkeypatch.setattr(TextEncoder, "states", lambda self, *args: (counted.append(1), real(self, *args))[1])
    again, other = run(small(*PROMPT, f"run.dir={tmp_path}/two", "eval_batch_size=7"))
    few = len(counted)
    assert other["training_rows"] == 64
    one, two = (pl.read_parquet(path / "rows.parquet")["score"].to_numpy() for path in (folder, again))
    assert (np.argsort(one, kind="stable") == np.argsort(two, kind="stable")).all()
    assert other["metrics"]["test/auc"] == record["metrics"]["test/auc"]
    assert few <= 1 + 1 + 3 * 64  # the check at loading, and the rows of the calibration that were not read before


@pytest.mark.slow
def test_few_shots_train_the_adapter_alone(small: Compose, tmp_path: Path) -> None:
    folder, record = run(small(*LORA, f"run.dir={tmp_path}/lora"))
    assert record["training_rows"] == 16
    assert record["steps"] == 4
    assert record["training_rows_seen"] == 32
    saved = load_file(folder / "checkpoint/model.safetensors")
    assert {name for name in saved if ".lora_" not in name} == {"scale", "offset", "prior"}
    assert float(saved["scale"]) == 1.0
    assert any(value.abs().sum() > 0 for name, value in saved.items() if "lora_B" in name)
    _, again = run(small(*LORA, f"run.dir={tmp_path}/again"))
    assert again["metrics"] == record["metrics"]
    _, other = run(small(*LORA, f"run.dir={tmp_path}/other", "seed=2"))
    assert other["metrics"] != record["metrics"]
    assert other["fingerprint"] == record["fingerprint"]


def test_a_tuned_run_passes_the_audit(small: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = run(small(*LORA, f"run.dir={tmp_path}/lora"))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["audit", f"run.dir={folder}", f"cache={small().cache}", "--json"])
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["order"]["level"] == "pass", findings["order"]
    assert findings["prompts"]["level"] == "pass"
    assert not [finding for finding in findings.values() if finding["level"] == "fail"]


def test_the_audit_counts_prompts_that_show_the_future(
    small: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run(small(*PROMPT, "shots=16", "split=random", f"run.dir={tmp_path}/random"))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["audit", f"run.dir={folder}", f"cache={small().cache}", "--json"])
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["prompts"]["level"] == "warn"
    assert re.search(r" 0 are asked of .* and [1-9]\d* show items", findings["prompts"]["found"])


FIELD = [*PROMPT, "fields=prompted", "trainer.max_epochs=1"]


def opened(small: Compose, folder: Path) -> OpenRun:
    return open_run(folder, small().cache)


def test_a_prompt_is_one_more_field_of_the_machine(small: Compose, tmp_path: Path) -> None:
    """The score of rows is the sum over all pairs of fields, the prompt's among them."""
    start, _ = run(small(*TASK, "prompt=none", f"run.dir={tmp_path}/start"))
    folder, record = run(small(*FIELD, "shots=64", f"init_from={start}", f"run.dir={tmp_path}/field"))
    assert record["training_rows"] == 64
    assert len(record["prompt"]) == 12
    run_ = opened(small, folder)
    model, task = run_.model, row_task(run_.prepared, "test")
    assert isinstance(model, Recommender)
    assert model.prompt is not None
    contexts, items = task.contexts[task.places], task.items[task.item_places]
    user, item = model.sides(contexts, items)
    linear, factors = user.fields.join(item)
    own, factor = model.prompt(contexts, items)
    factors = torch.cat([factors, factor.unsqueeze(1)], 1)
    expected = model.head.bias + linear.sum(1) + own
    for f, g in itertools.combinations(range(3), 2):
        expected = expected + (factors[:, f] * factors[:, g]).sum(1)
    torch.testing.assert_close(model.score(contexts, items), expected, atol=1e-5, rtol=1e-5)
    catalogue = model.catalogue(task.contexts, task.items)
    torch.testing.assert_close(catalogue.pairs(task.places, task.item_places), expected, atol=1e-5, rtol=1e-5)
    every = catalogue.cross(torch.arange(2))
    for place, column in itertools.product(range(2), (0, 3)):
        one = torch.tensor([place]), torch.tensor([column])
        torch.testing.assert_close(every[place, column], model.score(task.contexts[one[0]], task.items[one[1]])[0])
    assert factor.std() > 0
    assert own.abs().max() > 0
    rows = pl.read_parquet(folder / "rows.parquet")["score"].to_numpy()
    np.testing.assert_allclose(rows, expected.detach().numpy(), atol=1e-5, rtol=1e-5)


def test_an_adapter_is_trained_through_the_field(small: Compose, tmp_path: Path) -> None:
    folder, record = run(small(*FIELD, *LORA[len(PROMPT) :], "trainer.max_epochs=1", f"run.dir={tmp_path}/lora"))
    saved = load_file(folder / "checkpoint/model.safetensors")
    assert any(value.abs().sum() > 0 for name, value in saved.items() if "lora_B" in name)
    again = evaluate(folder, "test", small().cache)
    assert again == {name: value for name, value in record["metrics"].items() if name.startswith("test/")}


def test_the_bayesian_machine_weighs_prompts(
    small: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bayes = ["baseline=bayesian_fm", "baseline.iterations=30", "baseline.burn_in=5", "baseline.samples=20"]
    folder, record = run(small(*FIELD, *bayes, "shots=64", f"run.dir={tmp_path}/bayes"))
    assert record["training_rows"] == record["split"]["rows"]["train"]
    saved = load_file(folder / "checkpoint/model.safetensors")
    assert saved["row_samples"].shape == (9, 20)
    assert saved["row_samples"].abs().min() > 0
    assert not [name for name in saved if "scorer" in name]
    assert evaluate(folder, "test", small().cache) == {
        name: value for name, value in record["metrics"].items() if name.startswith("test/")
    }
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["audit", f"run.dir={folder}", f"cache={small().cache}", "--json"])
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["prompts"]["level"] == "pass"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=ranking"], "task=ranking: a prompt for each user and item takes too long: set task=pointwise"),
        ([], "prompt without a backbone: set backbone=smollm2_135m"),
        (["encoder=mean"], "a prompt goes without encoder"),
        (["baseline=bias"], "a prompt goes without baseline"),
        (["prompt=none", "shots=4"], "shots=4 is for a prompt"),
        (["shots=3"], "shots=3: half of each label is drawn"),
        (["dataset.text=null"], "prompt.liked=.* names 'text'; item columns are"),
        (["backbone.max_seq_len=64"], "a prompt would have up to .* tokens, and this backbone reads 64"),
        (["adapter=lora", "adapter.num_layers=1", "shots=16", "optimizer=row_adam"], "optimizer: row-wise ones are"),
        (["fields=prompted", "task=ranking"], "task=ranking: a prompt for each user and item takes too long"),
        (["fields=prompted", "baseline=bias"], "Bias reads no prompts"),
        (["fields=prompted", "+fields.prompt.side=user"], "fields.prompt: one field may be {kind: prompt}"),
        (["prompt=none", "fields=prompted"], "fields.prompt is a prompt, and there is none: set prompt=liked"),
        (
            ["fields=prompted", "+fields.t={kind: text, side: item, column: text}", "adapter=lora"],
            "adapter: fields.prompt and a text field would share it",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together(small: Compose, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(small(*(TASK if overrides in ([], ["prompt=none", "shots=4"]) else PROMPT), *overrides))
