"""Examples in the format of TALLRec: a user's last films, liked and not, and the film that is asked about.

Source: K. Bao et al., TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with
Recommendation, RecSys 2023; the films are those of MovieLens-100K. For research, no redistribution.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from factorlm.data.reading import checksum, existing_file
from factorlm.data.tables import Frames, Negatives, canonical
from factorlm.errors import UserError

INPUT = re.compile(
    r'User Preference:(?P<liked>[^\n]*)\nUser Unpreference:(?P<disliked>[^\n]*)\n[^\n"]*"(?P<target>[^\n]+)"\?\s*'
)
ANSWERS = {"Yes.": True, "No.": False}
Titles = tuple[str, ...]


class Example(NamedTuple):
    """The films of the two lists, oldest first, and the asked film with its answer."""

    liked: Titles
    disliked: Titles
    target: str
    label: bool

    def after(self) -> tuple[tuple[Titles, Titles], tuple[Titles, Titles]]:
        """The two lists of the user's next example: the asked film is added and the oldest film of a list is gone."""
        liked = (*self.liked, self.target) if self.label else self.liked
        disliked = self.disliked if self.label else (*self.disliked, self.target)
        return (liked[1:], disliked), (liked, disliked[1:])


@dataclass(frozen=True)
class Examples:
    """Labelled rows from files of examples, JSON lists of ``{"instruction", "input", "output"}``.

    The files name no user. An example whose lists are those of another plus its asked film, minus the oldest film of a
    list, is the same user's next one; a chain of such examples is a user, called by a hash of the first. What is asked
    has the timestamps 0, 1, ...; the films listed in the first example have those below 0. Which of them was older is
    told by what later examples drop; where none does, liked films stand before the others.

    Args:
        interactions: path of a file, or several; what is in several counts once.
        negatives: ``keep`` rows of answer No as rows of label 0, or ``drop`` them.
        text: template of the item text over ``title``.
    """

    interactions: str | Sequence[str]
    negatives: Negatives
    text: str | None

    def identity(self) -> object:
        """The checksums of the files, which rows are kept, and the template."""
        return ["examples", [checksum(path) for path in self._paths], self.negatives, self.text]

    def load(self, cache_dir: Path) -> Frames:
        """Read and check the files."""
        rows = pl.concat(read_examples(path) for path in self._paths).unique(maintain_order=True)
        titles = rows["item_id"].unique().sort()
        items = pl.DataFrame({"item_id": titles, "title": titles})
        return canonical(
            rows, None, items, min_value=1.0, negatives=self.negatives, text=self.text, source=", ".join(self._paths)
        )

    @property
    def _paths(self) -> list[str]:
        return [self.interactions] if isinstance(self.interactions, str) else list(self.interactions)


def read_examples(path: str) -> pl.DataFrame:
    """Columns ``user_id, item_id, timestamp, value`` of a file; see `Examples`.

    Raises:
        UserError: the file is missing or not of the format; the message names the first example that is wrong.
    """
    try:
        content = json.loads(existing_file(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: it must be a JSON list of examples, each with instruction, input and output")
    examples = [_parsed(path, number, example) for number, example in enumerate(content, start=1)]
    rows = [row for chain in _chains(examples) for row in _rows(chain)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "value"], orient="row")


def _parsed(path: str, number: int, example: Any) -> Example:
    place = f"{path}: example {number}"
    if not isinstance(example, dict) or not all(isinstance(example.get(key), str) for key in ("input", "output")):
        raise UserError(f"{place} is no object with the texts input and output")
    found = INPUT.fullmatch(example["input"])
    if found is None:
        raise UserError(
            f'{place}: input {example["input"][:80]!r} must be the lines \'User Preference: "A", "B"\', '
            "'User Unpreference: \"C\"' and a question that ends in '\"D\"?'"
        )
    answer = example["output"].strip()
    if answer not in ANSWERS:
        raise UserError(f"{place}: output {example['output'][:20]!r} must be Yes. or No.")
    liked, disliked = (_titles(place, key, found[key].strip()) for key in ("liked", "disliked"))
    return Example(liked, disliked, found["target"], ANSWERS[answer])


def _titles(place: str, key: str, text: str) -> Titles:
    if not text:
        return ()
    if len(text) < 3 or text[0] != '"' or text[-1] != '"':
        raise UserError(f'{place}: the {key} films {text[:80]!r} must be written "A", "B"')
    return tuple(text[1:-1].split('", "'))


def _chains(examples: list[Example]) -> Iterator[list[Example]]:
    """The examples of each user, in order; users in order of their first example in the file."""
    waiting: dict[tuple[Titles, Titles], list[int]] = {}
    for place, example in enumerate(examples):
        waiting.setdefault((example.liked, example.disliked), []).append(place)
    following: dict[int, int] = {}
    for place, example in enumerate(examples):
        for lists in example.after():
            if waiting.get(lists):
                following[place] = waiting[lists].pop(0)
                break
    followers = set(following.values())
    left = dict.fromkeys([*(place for place in range(len(examples)) if place not in followers), *range(len(examples))])
    while left:
        current = next(iter(left))
        chain = []
        while current in left:
            del left[current]
            chain.append(examples[current])
            current = following.get(current, -1)
        yield chain


def _rows(chain: list[Example]) -> Iterator[tuple[str, str, int, float]]:
    """User, film, timestamp and answer of what a chain lists and asks."""
    first = chain[0]
    user = hashlib.sha256(json.dumps(first).encode()).hexdigest()[:12]
    lists = {True: list(first.liked), False: list(first.disliked)}
    listed: list[tuple[str, bool]] = []
    for one, two in pairwise(chain):
        dropped = (two.liked, two.disliked) == one.after()[0]
        if not lists[dropped]:
            break
        listed.append((lists[dropped].pop(0), dropped))
    listed += [(film, label) for label in (True, False) for film in lists[label]]
    for time, (film, label) in enumerate(listed, start=-len(listed)):
        yield user, film, time, float(label)
    for time, example in enumerate(chain):
        yield user, example.target, time, float(example.label)
