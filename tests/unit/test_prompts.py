from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import DictConfig
from sklearn.linear_model import LogisticRegression
from transformers import AutoConfig, AutoModelForCausalLM

from factorlm.backbones.adapter import Lora
from factorlm.backbones.encoder import TextEncoder
from factorlm.backbones.packing import Piece
from factorlm.backbones.prompt_states import Key, NoStates, PromptStates, key_of
from factorlm.backbones.prompting import Forward, Prompt, PromptScorer
from factorlm.backbones.tiny import TinyBackbone
from factorlm.config.build import cache_dir, make_data
from factorlm.data.prepared import load_prepared, prepare
from factorlm.data.prompts import PromptTemplate, few_shots
from factorlm.data.tables import frame
from factorlm.errors import UserError
from factorlm.evaluation.histories import train_contexts
from factorlm.evaluation.pointwise import row_task
from factorlm.models.prompted import Prompted, platt
from factorlm.scoring import Contexts

TINY = TinyBackbone(name="tiny", num_layers=3, hidden_size=16, seed=0, pooling="mean", max_seq_len=2048)
ITEMS = pl.DataFrame({"item_id": range(9), "title": [f"Film {'x' * i} no. {i}" for i in range(9)]})


def template(**changes: object) -> PromptTemplate:
    words = {
        "instruction": "Liked:", "nothing": "\n- nothing", "liked": "\n- {title}",
        "between": "\nNot:", "disliked": None,
        "target": "\nWill they like {title}?", "order": "oldest_first", "max_history_tokens": 40,
        "positive": ["Yes", "yes"], "negative": ["No"],
    }  # fmt: skip
    return PromptTemplate(**{**words, **changes})  # type: ignore[arg-type]


def scorer(folder: Path, **changes: object) -> PromptScorer:
    model, tokenizer = TINY.load_causal(folder)
    return PromptScorer(
        model, tokenizer, template(**changes), ITEMS, lambda layer: PromptStates(folder, "t", layer, 16)
    )


def asked(model: PromptScorer) -> list[Prompt]:
    histories = [[], [1, 2], [0, 1, 2, 3, 4], [8]]
    return [model.writer.prompt(history, target) for history in histories for target in (5, 6, 7)]


def scores(model: PromptScorer, prompts: list[Prompt]) -> torch.Tensor:
    return model(model.shared(prompts)).detach()


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each forward pass, layers skipped or not."""
    seen: list[int] = []
    for name in ("states", "entering"):
        real = getattr(TextEncoder, name)
        place = 1 if name == "entering" else 0

        def counted(self: TextEncoder, *args: object, real: Callable = real, place: int = place) -> torch.Tensor:
            seen.append(args[place]["input_ids"].shape[1])  # type: ignore[index]
            return real(self, *args)

        monkeypatch.setattr(TextEncoder, name, counted)
    return seen


def test_the_latest_items_within_the_budget_are_written() -> None:
    lengths = [10, 20, 30, 5]
    assert template(max_history_tokens=35).written(lengths) == [2, 3]
    assert template(max_history_tokens=35, order="latest_first").written(lengths) == [3, 2]
    assert template(max_history_tokens=34).written(lengths) == [3]
    assert template(max_history_tokens=0).written([1]) == []
    assert template().written([]) == []


def test_a_version_is_the_words() -> None:
    assert template().version == template().version
    assert template().version != template(instruction="Loved:").version


def test_shots_are_balanced_nested_and_drawn_by_seed() -> None:
    labels = np.arange(100) % 10 == 0
    rows = few_shots(labels, 8, 1)
    assert labels[rows].sum() == 4
    assert (np.diff(rows) > 0).all()
    assert set(few_shots(labels, 4, 1)) < set(rows)
    assert set(few_shots(labels, 8, 2)) != set(rows)
    assert few_shots(labels, None, 1).tolist() == list(range(100))
    for shots in (0, 3, 22):
        with pytest.raises(UserError, match=f"shots={shots}: half of each label is drawn, so give an even number"):
            few_shots(labels, shots, 1)


def test_a_prompt_in_words(tmp_path: Path) -> None:
    model = scorer(tmp_path)
    tokenizer = TINY.load_causal(tmp_path)[1]
    texts = tokenizer.batch_decode(model.tokens([model.writer.prompt([8, 1, 2], 5), model.writer.prompt([], 0)]))
    assert texts[0] == f"Liked:\n- {ITEMS['title'][1]}\n- {ITEMS['title'][2]}\nWill they like {ITEMS['title'][5]}?"
    assert texts[1] == "Liked:\n- nothing\nWill they like Film  no. 0?"


def test_what_a_user_did_not_like_is_a_list_of_its_own(tmp_path: Path) -> None:
    model = scorer(tmp_path, disliked="\n* {title}")
    tokenizer = TINY.load_causal(tmp_path)[1]
    items, liked, title = [3, 1, 2, 4], [False, True, False, True], ITEMS["title"].to_list()
    prompts = [model.writer.prompt(items, 5, liked), model.writer.prompt([1], 5), model.writer.prompt([], 5, [])]
    texts = tokenizer.batch_decode(model.tokens(prompts))
    written = model.writer.written(items, liked)
    assert written == [2, 4]  # the budget is that of both lists
    end = f"\nWill they like {title[5]}?"
    assert texts[0] == f"Liked:\n- {title[4]}\nNot:\n* {title[2]}{end}"
    assert texts[1] == f"Liked:\n- {title[1]}\nNot:\n- nothing{end}"
    assert texts[2] == f"Liked:\n- nothing\nNot:\n- nothing{end}"


def test_a_chat_template_is_applied_around_the_parts(tmp_path: Path) -> None:
    model, tokenizer = TINY.load_causal(tmp_path)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    store = PromptStates(tmp_path, "chat", 3, 16)
    chat = PromptScorer(model, tokenizer, template(), ITEMS, lambda layer: store)
    content = f"Liked:\n- {ITEMS['title'][1]}\nWill they like {ITEMS['title'][5]}?"
    message = [{"role": "user", "content": content}]
    whole = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert whole.endswith("?<eos>[assistant] ")
    (tokens,) = chat.tokens([chat.writer.prompt([1], 5)])
    assert list(tokens) == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_scores_are_those_of_the_language_model(tmp_path: Path) -> None:
    model, (language_model, tokenizer) = scorer(tmp_path), TINY.load_causal(tmp_path)
    prompts = asked(model)
    first = [[tokenizer(word)["input_ids"][0] for word in words] for words in (["Yes", "yes"], ["No"])]
    expected = []
    for tokens in model.tokens(prompts):
        logits = language_model(torch.tensor([tokens])).logits[0, -1]
        expected.append(logits[first[0]].exp().sum().log() - logits[first[1]].exp().sum().log())
    assert torch.allclose(scores(model, prompts), torch.stack(expected), atol=1e-5)
    assert torch.allclose(model(model.padded(prompts)), torch.stack(expected), atol=1e-5)
    assert torch.stack(expected).std() > 1e-4


@pytest.mark.parametrize("layers", [0, 2])
def test_shared_prefixes_change_nothing_and_no_score_depends_on_others(tmp_path: Path, layers: int) -> None:
    model = scorer(tmp_path)
    prompts = asked(model)
    frozen = scores(model, prompts)
    if layers:
        model.adapt(Lora(rank=2, alpha=4, num_layers=layers, targets=["q_proj", "v_proj"]))
        assert torch.allclose(scores(model, prompts), frozen, atol=1e-6)
        for value in model.parameters():
            if value.requires_grad:
                torch.nn.init.normal_(value, std=0.3)
        assert not torch.allclose(scores(model, prompts), frozen, atol=1e-3)
    together = scores(model, prompts)
    with torch.no_grad():
        assert torch.allclose(model(model.padded(prompts)), together, atol=1e-5)
    other = scorer(tmp_path / "fresh")
    if layers:
        other.adapt(Lora(rank=2, alpha=4, num_layers=layers, targets=["q_proj", "v_proj"]))
        other.load_state_dict(model.state_dict())
    order = torch.randperm(len(prompts)).tolist()
    alone = torch.cat([scores(other, [prompts[row]]) for row in order])
    assert torch.equal(alone, together[order])


def test_what_is_shared_is_read_once_and_what_is_stored_never_again(tmp_path: Path, forwards: list[int]) -> None:
    model = scorer(tmp_path)
    prompts = asked(model)
    forwards.clear()
    first = scores(model, prompts)
    histories = {prompt.history for prompt in prompts}
    assert len(histories) == 4
    passes = [max(16, len(model.writer.instruction)), sum(map(len, histories)), sum(len(p.target) for p in prompts)]
    assert forwards == passes
    forwards.clear()
    assert torch.equal(scores(scorer(tmp_path), prompts), first)
    assert len(forwards) == 1  # the padded batch of the check at loading
    model.adapt(Lora(rank=2, alpha=4, num_layers=1, targets=["q_proj"]))
    forwards.clear()
    model.padded(prompts).sum().backward()
    assert len(forwards) == len(passes) + 1
    assert {name.rpartition(".lora_")[1] for name, value in model.named_parameters() if value.grad is not None} == {
        ".lora_"
    }
    forwards.clear()
    model.padded(prompts[::-1])
    assert len(forwards) == 1


def test_keys_and_values_of_a_history_are_held_only_while_its_targets_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = scorer(tmp_path), PromptScorer._pass
    histories: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def counted(self: PromptScorer, pieces: list[Piece], forward: Forward) -> Iterator[tuple[Key, torch.Tensor]]:
        read = real(self, pieces, forward)
        histories.extend(weakref.ref(piece.found[0][0]) for piece in pieces if piece.keep)
        alive.append(sum(keys() is not None for keys in histories))
        return read

    monkeypatch.setattr(PromptScorer, "_pass", counted)
    scores(model, [model.writer.prompt(list(history), 5) for history in permutations(range(8), 2)])
    assert len(histories) == 1 + 56
    most = 512 // min(len(model.writer.prompt(list(history), 5).history) for history in permutations(range(8), 2))
    assert 1 < max(alive) <= 1 + most < 30
    assert not any(keys() is not None for keys in histories)


@pytest.mark.parametrize(
    ("kind", "sizes", "attention"),
    [
        ("qwen3", {"head_dim": 8, "intermediate_size": 32, "num_key_value_heads": 1}, "sdpa"),
        ("gemma2", {"head_dim": 8, "intermediate_size": 32, "num_key_value_heads": 1, "final_logit_softcapping": None},
         "eager"),
        ("mistral", {"head_dim": 8, "intermediate_size": 32, "num_key_value_heads": 1, "sliding_window": 20},
         "sdpa"),
        ("gpt2", {}, "sdpa"),
        ("falcon", {}, None),  # it attends by code of its own
    ],
)  # fmt: skip
def test_architectures(tmp_path: Path, kind: str, sizes: dict[str, int | None], attention: str | None) -> None:
    tokenizer = TINY.load_causal(tmp_path)[1]
    common = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common, **sizes, pad_token_id=0))
    if attention is None:
        with pytest.raises(UserError, match="FalconForCausalLM is not supported: it does not attend"):
            PromptScorer(model.eval(), tokenizer, template(), ITEMS, lambda layer: NoStates())
        return
    assert model.config._attn_implementation == attention
    asker = PromptScorer(model.eval(), tokenizer, template(), ITEMS, lambda layer: NoStates())
    prompts = asked(asker)
    torch.testing.assert_close(scores(asker, prompts), asker(asker.padded(prompts)).detach(), atol=1e-5, rtol=1e-5)
    assert model.config._attn_implementation == attention


def test_a_store_survives_a_kill_and_is_shared(tmp_path: Path) -> None:
    one, other = (PromptStates(tmp_path, "t", 0, 4) for _ in range(2))
    keys = [key_of([1, 2, 3], start) for start in range(3)]
    assert len(set(keys)) == 3
    values = torch.randn(3, 2, 4)
    one.add({keys[0]: values[0]})
    data, index = (next(tmp_path.glob(f"*.{end}")) for end in ("rows", "index"))
    with data.open("ab") as torn, index.open("ab") as half:
        torn.write(b"xyz")
        half.write(b"abcde")
    other.add({keys[0]: values[2], keys[1]: values[1]})
    one.add({keys[2]: values[2]})
    for store in (one, PromptStates(tmp_path, "t", 0, 4)):
        for key, value in zip(keys, values, strict=True):
            assert torch.equal(store.get(key), value)  # type: ignore[arg-type]
    assert PromptStates(tmp_path, "t", 1, 4).get(keys[0]) is None


def test_a_full_store_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factorlm.backbones.prompt_states.MOST", 5 * 16 * 4)
    model = scorer(tmp_path)
    prompts = asked(model)
    first = scores(model, prompts)
    assert torch.equal(scores(model, prompts), first)
    assert next(tmp_path.glob("*.rows")).stat().st_size == 5 * 16 * 4


def test_platt_scaling() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4000, generator=generator) * 3 + 5
    labels = (torch.rand(4000, generator=generator) < (0.4 * values - 2).sigmoid()).long()
    scale, offset = platt(values, labels)
    reference = LogisticRegression(C=np.inf).fit(values.unsqueeze(1).numpy(), labels.numpy())
    assert (scale, offset) == pytest.approx((reference.coef_[0, 0], reference.intercept_[0]), abs=0.01)
    assert platt(values, labels, 1.0)[0] == pytest.approx(1.0)
    assert platt(-values, labels)[0] > 0  # the order stays
    scale, offset = platt(torch.arange(4.0), torch.tensor([0, 0, 1, 1]))  # separable
    assert (scale * torch.arange(4.0) + offset).sigmoid().max() < 0.9


def test_logits_are_brought_to_the_share_of_positives(tmp_path: Path) -> None:
    model = Prompted(scorer(tmp_path), balanced=True)
    contexts = Contexts(torch.arange(4), torch.zeros(4).long(), torch.arange(4), torch.arange(4))
    items, labels = torch.tensor([5, 6, 7, 8]), torch.tensor([0, 1, 0, 1])
    model.calibrate(contexts, items, labels, 0.8)
    logits, penalty = model.penalized(contexts, items)
    assert penalty == 0
    assert torch.allclose(logits.sigmoid().mean(), torch.tensor(0.5), atol=1e-3)
    assert torch.allclose(model.score(contexts, items) - logits, torch.tensor(4.0).log(), atol=1e-4)
    catalogue = model.catalogue(contexts, items)
    every = catalogue.cross(torch.arange(4))
    assert torch.equal(catalogue.pairs(torch.tensor([3, 0]), torch.tensor([1, 2])), every[[3, 0], [1, 2]])


@pytest.mark.parametrize("split", ["user_time", "random"])
@pytest.mark.parametrize("history", ["train", "earlier"])
def test_audit_no_target_no_future(small: Callable[..., DictConfig], tmp_path: Path, split: str, history: str) -> None:
    """Of every row, the history in the prompt against the table of interactions, row by row."""
    config = small("task=pointwise", f"split={split}", "dataset.num_users=30", "dataset.negatives=keep")
    prepared = load_prepared(prepare(*make_data(config), cache_dir(config))[0])
    size = len(prepared.tables.items)
    names = pl.DataFrame({"title": [f"<{item}>" for item in range(size)]})
    language_model, tokenizer = TINY.load_causal(tmp_path)
    words = template(liked="{title}", target="?{title}", nothing="-", max_history_tokens=40)
    model = Prompted(
        PromptScorer(language_model, tokenizer, words, names, lambda layer: PromptStates(tmp_path, "a", layer, 16)),
        balanced=False,
    )
    place, table = prepared.positions, prepared.split
    value = frame(prepared.tables.interactions)["label"].to_numpy()
    allowed = {"train": ("train",), "valid": ("train",), "test": ("train", "valid")[: 1 + (history == "earlier")]}
    for part in ("train", "valid", "test"):
        users, items, rows = table.users[part], table.items[part], table.rows[part]
        if part == "train":
            contexts = train_contexts(prepared)
        else:
            task = row_task(prepared, part, history)  # type: ignore[arg-type]
            contexts = task.contexts[task.places]
        texts = tokenizer.batch_decode(model.scorer.tokens(model.scorer.prompts(contexts, torch.from_numpy(items))))
        for user, item, row, text in zip(users, items, rows, texts, strict=True):
            before = [
                (place[other], other_item)
                for source in allowed[part]
                for other, other_user, other_item in zip(
                    table.rows[source], table.users[source], table.items[source], strict=True
                )
                if other_user == user
                and value[other]
                and other != row
                and (part != "train" or place[other] < place[row])
            ]
            told = "".join(f"<{other}>" for _, other in sorted(before))
            shown, question = text.removeprefix("Liked:").split("?")
            assert question == f"<{item}>"
            assert told.endswith(shown.replace("-", ""))
            assert len(shown) >= min(len(told), 36) or shown == "-"
            assert (
                part == "train"
                or history != "earlier"
                or split == "random"
                or not before
                or max(before)[0] < place[row]
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "random"}, "prompt.order=random: it must be one of oldest_first, latest_first"),
        ({"max_history_tokens": -1}, "prompt.max_history_tokens=-1: it must be 0 or more"),
        ({"max_history_tokens": 4000}, "prompt.max_history_tokens=4000: a prompt would have up to .* reads 64"),
        ({"liked": "- {name}"}, "prompt.liked='- {name}' names 'name'; item columns are item_id, title"),
        ({"target": "Will they?"}, "prompt.target='Will they.' names no column"),
        ({"positive": []}, r"prompt.positive=\[\]: name at least one form"),
        ({"negative": ["Yesterday"], "positive": ["Yes"]}, "begin with the same tokens of this backbone"),
        ({"instruction": " "}, "prompt.instruction is empty"),
    ],
)  # fmt: skip
def test_templates_that_do_not_work(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    short = TinyBackbone(name="tiny", num_layers=3, hidden_size=16, seed=0, pooling="mean", max_seq_len=64)
    with pytest.raises(UserError, match=message):
        model, tokenizer = (short if "max_history_tokens" in changes else TINY).load_causal(tmp_path)
        PromptScorer(model, tokenizer, template(**changes), ITEMS, lambda layer: PromptStates(tmp_path, "t", layer, 16))
