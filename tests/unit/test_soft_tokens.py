from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from tests.unit.test_prompts import ITEMS, TINY, template

from factorlm.backbones.adapter import Lora, adapter_names
from factorlm.backbones.soft_prompting import SoftPromptScorer
from factorlm.commands.evaluate import evaluate, open_run
from factorlm.commands.train import train
from factorlm.errors import UserError
from factorlm.evaluation.pointwise import row_task
from factorlm.models.prompted import Prompted
from factorlm.models.soft_tokens import CollaborativeTokens
from factorlm.runs.record import read_record
from factorlm.scoring import Contexts

LORA = Lora(num_layers=1, targets=None, rank=2, alpha=4)
CONTEXTS = Contexts(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]), torch.tensor([2, 2, 2]), torch.tensor([1, 2]))
TARGETS = torch.tensor([5, 6, 5])


class Vectors(torch.nn.Module):
    """Users and items each have a vector of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items = (torch.nn.Parameter(torch.randn(9, 16)) for _ in range(2))

    def forward(self, contexts: Contexts, items: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.users[contexts.users], self.items[items]], 1)


def soft_scorer(folder: Path, *, train_adapter: bool = False) -> SoftPromptScorer:
    words = template(target="\nUser {user_vector}: will they like {title}, {item_vector}?")
    model, tokenizer = TINY.load_causal(folder)
    return SoftPromptScorer(model, tokenizer, words, ITEMS, Vectors(), train_adapter=train_adapter)


def test_vectors_stand_in_their_places(tmp_path: Path) -> None:
    """Against the model's own forward pass over embeddings that were put together by hand."""
    model = soft_scorer(tmp_path)
    states = model.read(CONTEXTS, TARGETS)
    plain, _ = TINY.load_causal(tmp_path)
    for row, tokens in enumerate(model.tokens(model.prompts(CONTEXTS, TARGETS))):
        places = [place for place, token in enumerate(tokens) if token < 0]
        assert [tokens[place] for place in places] == [-1 - 2 * row, -2 - 2 * row]
        embedded = plain.get_input_embeddings()(torch.tensor([tokens]).clamp(min=0)).detach()
        embedded[0, places] = model.vectors(CONTEXTS, TARGETS)[row].detach()
        expected = plain.base_model(inputs_embeds=embedded).last_hidden_state[0, -1]
        torch.testing.assert_close(states[row], expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states[0], states[2])  # the same words about another user
    torch.testing.assert_close(model.trained(CONTEXTS, TARGETS), states, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.read(CONTEXTS[torch.tensor([2])], TARGETS[2:])[0], states[2])


@pytest.mark.parametrize("train_adapter", [False, True])
def test_gradients_reach_the_vectors_and_the_adapter_if_it_is_trained(tmp_path: Path, train_adapter: bool) -> None:
    model = soft_scorer(tmp_path, train_adapter=train_adapter)
    model.adapt(LORA)
    model(model.trained(CONTEXTS, TARGETS)).sum().backward()
    vectors = model.vectors
    assert isinstance(vectors, Vectors)
    assert vectors.users.grad is not None
    assert (vectors.users.grad.abs().sum(1) > 0).nonzero().flatten().tolist() == [0, 1]
    assert (vectors.items.grad.abs().sum(1) > 0).nonzero().flatten().tolist() == [5, 6]  # type: ignore[union-attr]
    gradients = [model.get_parameter(name).grad for name in adapter_names(model)]
    assert gradients
    assert any(gradient is not None for gradient in gradients) == train_adapter


@pytest.mark.slow
def test_three_steps_each_a_run_of_its_own(small: Callable[..., DictConfig], tmp_path: Path) -> None:
    task = ["task=pointwise", "dataset.num_users=20"]
    factors = train(small(*task, "head=dot", f"run.dir={tmp_path}/mf"), progress=False)
    prompt = [
        *task, "backbone=tiny", "backbone.max_seq_len=4096", "adapter=lora", "adapter.num_layers=1", "shots=16",
        "batch_size=8", "trainer.max_epochs=1", "optimizer.lr=0.01", "prompt.max_history_tokens=24",
    ]  # fmt: skip
    text = train(small(*prompt, "prompt=liked", f"run.dir={tmp_path}/text"), progress=False)
    soft = [*prompt, "prompt=collm", "soft_tokens=mlp", f"soft_tokens.run={factors}"]
    mapped = train(small(*soft, f"init_from={text}", f"run.dir={tmp_path}/mapped"), progress=False)
    joint = [*soft, "soft_tokens.train_adapter=true", f"init_from={mapped}", f"run.dir={tmp_path}/joint"]
    both = train(small(*joint), progress=False)
    one, two, three = (load_file(folder / "checkpoint/model.safetensors") for folder in (text, mapped, both))
    lora = [name for name in one if ".lora_" in name]
    layers = [name for name in two if ".vectors.layers." in name]
    assert all(torch.equal(one[name], two[name]) for name in lora)
    assert not all(torch.equal(two[name], three[name]) for name in lora)
    assert not any(torch.equal(two[name], three[name]) for name in layers)
    assert not [name for name in two if "source.table" in name]
    field = train(small(*soft, "fields=prompted", f"run.dir={tmp_path}/field"), progress=False)
    assert any(".vectors.layers." in name for name in load_file(field / "checkpoint/model.safetensors"))
    record = read_record(mapped)
    assert record is not None
    found = evaluate(mapped, "test", small().cache)
    assert found == {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    run = open_run(mapped, small().cache)
    assert isinstance(run.model, Prompted)
    vectors = run.model.scorer.vectors
    assert isinstance(vectors, CollaborativeTokens)
    rows = row_task(run.prepared, "test")
    contexts, items = rows.contexts[rows.places], rows.items[rows.item_places]
    user, item = vectors._vectors(contexts, items).unbind(1)
    torch.testing.assert_close((user * item).sum(1), vectors.source.score(contexts, items), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompt=collm"], r"prompt\.target has places of vectors: set soft_tokens=mlp"),
        (["prompt=liked", "soft_tokens=mlp", "soft_tokens.run={start}"], "soft_tokens without a place"),
        (["soft_tokens=mlp", "soft_tokens.run={start}"], "soft_tokens are for a prompt"),
        (["prompt=collm", "soft_tokens=mlp"], r"soft_tokens\.run is missing"),
        (["prompt=collm", "soft_tokens=mlp", "soft_tokens.run=/nowhere"], "soft_tokens.run=/nowhere is not the folder"),
        (["prompt=collm", "soft_tokens=mlp", "soft_tokens.run={start}"], "is a Bias and has no vectors"),
    ],
)
def test_what_does_not_go_together(
    small: Callable[..., DictConfig], tmp_path: Path, overrides: list[str], message: str
) -> None:
    task = ["task=pointwise", "dataset.num_users=40"]
    start = train(small(*task, "baseline=bias", f"run.dir={tmp_path}/start"), progress=False)
    named = [override.replace("{start}", str(start)) for override in overrides]
    with pytest.raises(UserError, match=message):
        train(small(*task, "backbone=tiny", "backbone.max_seq_len=4096", *named), progress=False)
