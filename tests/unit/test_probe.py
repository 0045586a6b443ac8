from __future__ import annotations

from pathlib import Path

import pytest
import torch

from factorlm.backbones.memorization import halves, recites
from factorlm.backbones.tiny import TinyBackbone
from factorlm.cli import main

KNOWN, UNKNOWN = "The Long Night of the Brown Fox (1999)", "Seven Dogs in a Green Forest (1987)"


def test_a_model_recites_what_it_was_overfitted_to_and_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = TinyBackbone(name="tiny", num_layers=2, hidden_size=32, seed=0, pooling="mean", max_seq_len=64)
    model, tokenizer = backbone.load_causal(tmp_path)
    (known,), (unknown,) = halves(tokenizer, [KNOWN]), halves(tokenizer, [UNKNOWN])
    assert "".join(known) == KNOWN
    assert not recites(model, tokenizer, *known)
    ids = torch.tensor([tokenizer(KNOWN, add_special_tokens=False)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    model.requires_grad_(True)
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    assert recites(model, tokenizer, *known)
    assert not recites(model, tokenizer, *unknown)


def test_one_word_cannot_be_halved(tmp_path: Path) -> None:
    _, tokenizer = TinyBackbone("tiny", 1, 16, 0, "mean", 64).load_causal(tmp_path)
    assert halves(tokenizer, ["Casablanca", "It"]) == []


def test_the_command_says_what_was_recited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["dataset=synthetic", "dataset.num_users=30", f"cache={tmp_path}"]
    for arguments, status in (
        (["backbone=tiny"], 0),
        (["backbone=none"], 2),
        (["backbone=tiny", "dataset.text=null"], 2),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["probe", *data, *arguments])
        assert stopped.value.code == status
    told = capsys.readouterr()
    assert "item texts 0 are completed word for word" in told.out
    assert "histories: " in told.out
    assert "set backbone=smollm2_135m" in told.err
