"""A causal language model asked yes or no; what prompts share is computed once.

K. Bao et al., TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with Recommendation,
RecSys 2023. Shapes: n prompts, t tokens, H hidden size, P and N first tokens of yes and of no.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from factorlm.backbones.encoder import TextEncoder
from factorlm.backbones.packing import Piece, Tokens, packed, passes
from factorlm.backbones.prompt_states import Key, StateStore, key_of
from factorlm.data.prompts import VECTORS
from factorlm.errors import UserError
from factorlm.scoring import Contexts

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from factorlm.backbones.adapter import Adapter
    from factorlm.data.prompts import PromptTemplate

Forward = Callable[[Mapping[str, Any], list[Key]], Tensor]  # states [T, H] of a pass: its arguments, keys of its pieces


class CausalSource(Protocol):
    """A backbone that loads with its language-model head."""

    def identity(self) -> str:
        """Hash of what determines its states."""
        ...

    def load_causal(self, cache_dir: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load model and tokenizer."""
        ...


class Prompt(NamedTuple):
    """The tokens of a prompt after its instruction: up to where questions begin to differ, and from there on."""

    history: Tokens
    target: Tokens


class PromptWriter:
    """A template in tokens: one part for the instruction, each item of a history, and each target.

    Parts are tokenized one by one and joined, so that a prompt has the same tokens whatever it shares. Where the
    tokenizer has a chat template the prompt is a message of the user, and the answer begins the next message.

    Args:
        template: the words.
        tokenizer: of the model.
        items: table of the items.
        max_tokens: that the model can read.

    Raises:
        UserError: a prompt could be longer than the model reads.
    """

    def __init__(
        self, template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, items: pl.DataFrame, max_tokens: int
    ) -> None:
        before, after = _around_message(tokenizer)
        liked, disliked, targets = template.write(items)
        self._template = template
        self.version = template.version
        self.instruction: Tokens = (*before, *_tokens(tokenizer, [template.instruction])[0])
        self._nothing, self._between = _tokens(tokenizer, [template.nothing, template.between])
        self.reads_disliked = template.disliked is not None
        self._liked = _tokens(tokenizer, liked)
        self._disliked = _tokens(tokenizer, disliked) if disliked else []
        questions = [(*target, *after) for target in _tokens_with_vectors(tokenizer, targets)]
        self._asked = _common(questions)
        self._targets = [question[len(self._asked) :] for question in questions]
        history = min(template.max_history_tokens, sum(map(len, self._liked + self._disliked)))
        history = max(len(self._nothing), history)
        if self.reads_disliked:
            history += len(self._nothing) + len(self._between)
        longest = len(self.instruction) + history + max(map(len, questions))
        if longest > max_tokens:
            raise UserError(
                f"prompt.max_history_tokens={template.max_history_tokens}: a prompt would have up to {longest} tokens, "
                f"and this backbone reads {max_tokens}; lower it, or write shorter items"
            )

    def written(self, history: Sequence[int], liked: Sequence[bool] | None = None) -> list[int]:
        """The items of a history, oldest first, that are written; see `prompt`."""
        return [history[place] for place in self._places(history, liked)]

    def prompt(self, history: Sequence[int], target: int, liked: Sequence[bool] | None = None) -> Prompt:
        """A prompt of a history, oldest first, and a target.

        Args:
            history: items.
            target: item.
            liked: whether each item of the history was; None: all were.
        """
        lists: dict[bool, list[int]] = {True: [], False: []}
        for place in self._places(history, liked):
            lists[liked is None or liked[place]] += self._item(history, liked, place)
        if not self.reads_disliked:
            return Prompt((*(lists[True] or self._nothing), *self._asked), self._targets[target])
        one, two = (lists[label] or self._nothing for label in (True, False))
        return Prompt((*one, *self._between, *two, *self._asked), self._targets[target])

    def _places(self, history: Sequence[int], liked: Sequence[bool] | None) -> list[int]:
        """Places in a history of what is written."""
        return self._template.written([len(self._item(history, liked, place)) for place in range(len(history))])

    def _item(self, history: Sequence[int], liked: Sequence[bool] | None, place: int) -> Tokens:
        """Tokens of an item of a history."""
        return (self._liked if liked is None or liked[place] else self._disliked)[history[place]]


class PromptScorer(nn.Module):
    r"""Score prompts by the answer that the language model would begin with.

    .. math:: s = \log \sum_{t \in P} e^{z_t} - \log \sum_{t \in N} e^{z_t}

    z are the logits after the last token, P and N the first tokens of the forms of yes and of no;
    one that both have counts for neither.

    Args:
        model: causal, with its head; frozen.
        tokenizer: of the model.
        template: of the prompts; with places of vectors, for a `SoftPromptScorer`.
        items: table of the items that prompts name.
        states: opens the store of what enters a layer; of the number of layers, of last tokens after all of them.

    Raises:
        UserError: the answers cannot be told apart by their first token, or the model does not attend by transformers'
            ``AttentionInterface``, or does more with its states than multiply them by its head.
    """

    positive: Tensor
    negative: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        items: pl.DataFrame,
        states: Callable[[int], StateStore],
    ) -> None:
        super().__init__()
        max_tokens = int(model.config.max_position_embeddings)
        self.writer = PromptWriter(template, tokenizer, items, max_tokens)
        self.encoder = TextEncoder(cast("PreTrainedModel", model.base_model), tokenizer, "last", max_tokens)
        yes, no = _answers(tokenizer, template)
        head = model.get_output_embeddings()
        for name, tokens in (("positive", yes), ("negative", no)):
            bias = torch.zeros(len(tokens)) if head.bias is None else head.bias[tokens]
            weight = torch.cat([head.weight[tokens], bias.unsqueeze(1)], 1)
            self.register_buffer(name, weight.detach().float().clone(), persistent=False)
        self._layer = self.encoder.num_layers  # the first that may change
        self._states = states(self._layer)
        self._open = states
        self._require_plain(model, yes, no)

    def adapt(self, adapter: Adapter) -> None:
        """Attach an adapter; what enters its first layer is kept.

        Raises:
            UserError: the adapter does not fit, or this architecture's layers are not a plain chain.
        """
        self._layer = adapter.first_layer(self.encoder)
        self.encoder.require_resumable(self._layer)
        self._states = self._open(self._layer)
        adapter.attach(self.encoder)

    def prompts(self, contexts: Contexts, items: Tensor) -> list[Prompt]:
        """The prompt of each context and item [n]."""
        histories = zip(self._histories(contexts), items.tolist(), strict=True)
        return [self.writer.prompt(history, target, liked) for (history, liked), target in histories]

    def written(self, contexts: Contexts, place: int) -> list[int]:
        """Items of its history that the prompts of a context show."""
        ((history, liked),) = self._histories(contexts[torch.tensor([place])])
        return self.writer.written(history, liked)

    def _histories(self, contexts: Contexts) -> Iterator[tuple[list[int], list[bool] | None]]:
        """Items of each history, and whether they were liked where the template tells it."""
        read = contexts.rated if self.writer.reads_disliked and contexts.rated is not None else contexts
        log, labels = read.log.cpu(), None if isinstance(read, Contexts) else read.labels.cpu()
        for start, end in zip(read.starts.tolist(), read.ends.tolist(), strict=True):
            yield log[start:end].tolist(), None if labels is None else labels[start:end].tolist()

    def trained(self, contexts: Contexts, items: Tensor) -> Tensor:
        """States [n, H] of the last tokens of prompts of contexts and items [n]; see `padded`."""
        return self.padded(self.prompts(contexts, items))

    def read(self, contexts: Contexts, items: Tensor) -> Tensor:
        """States [n, H] of the last tokens of prompts of contexts and items [n]; see `shared`."""
        return self.shared(self.prompts(contexts, items))

    def features(self, contexts: Contexts, items: Tensor) -> Tensor:
        """Score and state of the prompt of each context and item: [n, 1 + H], with gradients to an adapter."""
        trains = self.training and any(parameter.requires_grad for parameter in self.parameters())
        states = (self.trained if trains else self.read)(contexts, items)
        return torch.cat([self(states).unsqueeze(1), states], 1)

    def tokens(self, prompts: Sequence[Prompt]) -> list[Tokens]:
        """All tokens of each prompt."""
        return [(*self.writer.instruction, *prompt.history, *prompt.target) for prompt in prompts]

    def forward(self, states: Tensor) -> Tensor:
        """Scores [n] of the states [n, H] of last tokens."""
        states = nn.functional.pad(states, (0, 1), value=1.0).unsqueeze(1)  # summed by row: products round by shape
        return (states * self.positive).sum(2).logsumexp(1) - (states * self.negative).sum(2).logsumexp(1)

    def padded(self, prompts: Sequence[Prompt]) -> Tensor:
        """States [n, H] of last tokens by one padded batch, with gradients to an adapter; what it stands on is kept."""
        tokens = self.tokens(prompts)
        if self._frozen:
            states: Tensor = self.encoder(tokens)
            return states
        parts = self._entering(prompts)
        hidden = [self._loaded(torch.cat([parts[key] for key in self._keys(prompt)])) for prompt in prompts]
        adapted: Tensor = self.encoder(tokens, hidden, self._layer)
        return adapted

    @torch.no_grad()
    def shared(self, prompts: Sequence[Prompt]) -> Tensor:
        """States [n, H] of last tokens; the instruction is read once and a history once for all its targets.

        They equal `padded` but for rounding, and do not depend, to the last bit, on what is read together.
        """
        if self._frozen:
            found = self._known(prompts, lambda inputs, *_: self.encoder.states(inputs)[0], only_last=True)
        else:
            parts = self._entering(prompts)

            def resumed(inputs: Mapping[str, Any], keys: list[Key]) -> Tensor:
                hidden = self._loaded(torch.cat([parts[key] for key in keys]))
                missing = inputs["input_ids"].shape[1] - len(hidden)
                hidden = nn.functional.pad(hidden, (0, 0, 0, missing)).unsqueeze(0)
                return self.encoder.states(inputs, hidden, self._layer)[0]

            found = {key: states[-1:].clone() for key, states in self._read(prompts, resumed)}
        return torch.cat([found[self._keys(prompt)[-1]].to(self.positive.device) for prompt in prompts])

    def _loaded(self, states: Tensor) -> Tensor:
        """Stored states as the layers take them."""
        return states.to(self.positive.device, self.encoder.model.dtype)

    @property
    def _frozen(self) -> bool:
        return self._layer == self.encoder.num_layers

    @torch.no_grad()
    def _entering(self, prompts: Sequence[Prompt]) -> dict[Key, Tensor]:
        """What enters the first layer that may change, [t, H] of each part of the prompts."""
        return self._known(prompts, lambda inputs, _: self.encoder.entering(self._layer, inputs)[0], only_last=False)

    def _known(self, prompts: Sequence[Prompt], compute: Forward, *, only_last: bool) -> dict[Key, Tensor]:
        """States of the parts of prompts from the store, which gets what is missing; or of their last parts only."""
        found: dict[Key, Tensor] = {}
        missing, last = [], set()
        for prompt in prompts:
            keys = self._keys(prompt)
            stored = {key: self._states.get(key) for key in (keys[-1:] if only_last else keys) if key not in found}
            found |= {key: value for key, value in stored.items() if value is not None}
            if len(found | stored) > len(found):
                missing.append(prompt)
                last.add(keys[-1])
        fresh = {
            key: states[-1:].clone() if only_last else states
            for key, states in self._read(missing, compute)
            if key in last or not only_last
        }
        self._states.add(fresh)
        return found | fresh

    def _keys(self, prompt: Prompt) -> list[Key]:
        """Of instruction, history and target."""
        one, two = len(self.writer.instruction), len(self.writer.instruction) + len(prompt.history)
        (whole,) = self.tokens([prompt])
        return [key_of(whole[:one], 0), key_of(whole[:two], one), key_of(whole, two)]

    def _read(self, prompts: Sequence[Prompt], forward: Forward) -> Iterator[tuple[Key, Tensor]]:
        """States [t, H] of instruction, histories and targets, each read once after what it follows."""
        targets: dict[Tokens, dict[Tokens, None]] = {}
        for prompt in prompts:
            targets.setdefault(prompt.history, {})[prompt.target] = None
        if not targets:
            return
        instruction = Piece(self.writer.instruction, keep=True)
        yield from self._pass([instruction], forward)
        for histories in passes(instruction.then(history, keep=True) for history in targets):
            yield from self._pass(histories, forward)
            for pieces in passes(history.then(target) for history in histories for target in targets[history.tokens]):
                yield from self._pass(pieces, forward)
            for history in histories:
                history.found.clear()

    def _pass(self, pieces: Sequence[Piece], forward: Forward) -> Iterator[tuple[Key, Tensor]]:
        """States [t, H] of pieces that are read together."""
        keys = [key_of(piece.whole, len(piece.before)) for piece in pieces]
        with packed(self.encoder.model, pieces) as inputs:
            states = forward(inputs, keys)
        lengths = [len(piece.tokens) for piece in pieces]
        return zip(keys, states[: sum(lengths)].split(lengths), strict=True)

    @torch.no_grad()
    def _require_plain(self, model: PreTrainedModel, yes: list[int], no: list[int]) -> None:
        """Compare with the model's own logits, prompt by prompt.

        Raises:
            UserError: they differ.
        """
        tolerance = 3 * torch.finfo(model.dtype).eps ** 0.5
        first, second = self.writer.prompt([], 0), self.writer.prompt([0], 0)
        prompts = [first, second, first]
        logits = [model(torch.tensor([ids])).logits[0, -1].float() for ids in self.tokens(prompts)]
        own = torch.stack([row[yes].logsumexp(0) - row[no].logsumexp(0) for row in logits])
        padded = self.padded(prompts)
        refused = (
            f"prompt on {type(model).__name__} is not supported: it does not attend by transformers' "
            "AttentionInterface, or does more with its states than multiply them by its head"
        )
        try:
            shared = self.shared(prompts)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{refused} ({error})") from error
        if not all(torch.allclose(self(states), own, atol=tolerance, rtol=tolerance) for states in (padded, shared)):
            raise UserError(refused)


def scorer_in(model: nn.Module) -> PromptScorer | None:
    """What a model asks a language model with; None: it asks none."""
    return next((module for module in model.modules() if isinstance(module, PromptScorer)), None)


def _around_message(tokenizer: PreTrainedTokenizerBase) -> tuple[Tokens, Tokens]:
    """Tokens before and after what the user says; without a chat template, those that begin a text."""
    if not tokenizer.chat_template:
        return tuple(tokenizer("")["input_ids"]), ()
    mark = "\u2063prompt\u2063"
    messages = [{"role": "user", "content": mark}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, found, after = str(text).partition(mark)
    if not found:
        raise UserError("prompt: the chat template of this backbone leaves out what the user says; choose another")
    one, other = _tokens(tokenizer, [before, after])
    return one, other


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tokens]:
    return [tuple(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def _tokens_with_vectors(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Tokens]:
    """Tokens of texts; -1 stands for the user's vector and -2 for the item's."""
    marks = {mark: -1 - place for place, mark in enumerate(VECTORS.values())}
    pieces = [re.split(f"([{''.join(marks)}])", text) for text in texts]
    words = _tokens(tokenizer, [piece for text in pieces for piece in text if piece not in marks])
    left = iter(words)
    return [
        tuple(token for piece in text for token in ((marks[piece],) if piece in marks else next(left)))
        for text in pieces
    ]


def _common(questions: Sequence[Tokens]) -> Tokens:
    """What all begin with: words, not vectors, and of the shortest not all."""
    places = zip(*(question[:-1] for question in questions), strict=False)
    same = takewhile(lambda tokens: tokens[0] >= 0 and len(set(tokens)) == 1, places)
    return tuple(tokens[0] for tokens in same)


def _answers(tokenizer: PreTrainedTokenizerBase, template: PromptTemplate) -> tuple[list[int], list[int]]:
    """First tokens of the forms of yes and of no, without those that both have."""
    yes, no = ({ids[0] for ids in _tokens(tokenizer, words)} for words in (template.positive, template.negative))
    if yes <= no or no <= yes:
        raise UserError(
            f"prompt.positive={list(template.positive)} and prompt.negative={list(template.negative)} begin with the "
            "same tokens of this backbone: write other forms"
        )
    return sorted(yes - no), sorted(no - yes)
